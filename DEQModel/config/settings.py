"""Every setting of the language-model training script, declared once: name, type, default, meaning, range."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from modules.deq import BACKWARD_STARTS, GRADIENTS
from modules.solvers import SOLVERS
from modules.tracker import STOP_MODES, STOP_SCOPES

DATASETS = ("wt103", "wt2", "ptb", "ptb_char", "text")
INITIALISERS = ("normal", "uniform")
OPTIMIZERS = ("Adam", "SGD", "Adagrad", "RMSprop", "RAdam")
SCHEDULERS = ("cosine", "inv_sqrt", "dev_perf", "constant")
DROPOUT_UNITS = ("position", "channel")

NO_NAME = "N/A"


@dataclass(frozen=True)
class Flag:
    """What the command line needs to know about one setting, beside its name, type and default."""

    help: str
    kind: type | None = None  # of the value, where the default is None and does not tell
    several: bool = False  # takes one value or more
    choices: tuple[str, ...] | None = None
    least: float | None = None  # smallest value allowed
    besides: float | None = None  # one value outside the range that is allowed all the same
    above: float | None = None  # values must be larger than this
    below: float | None = None  # values must be smaller than this
    spelling: str | None = None  # where the flag is not "--" + the setting's name
    listed: bool = True  # one of the flags whose abbreviations existing scripts may use

    def option(self, name: str) -> str:
        """The flag as it is typed."""
        return self.spelling or f"--{name}"


def _flag(default: Any, help: str, **details: Any) -> Any:
    return dataclasses.field(default=default, metadata={"flag": Flag(help, **details)})


@dataclass(frozen=True)
class Settings:
    """The resolved settings of a run. `config.flags.parse` makes one from the command line and checks it.

    Lengths are in tokens, steps are optimizer updates.
    """

    # data
    data: str = _flag("../data/wikitext-103", "folder with train.txt, valid.txt and test.txt")
    dataset: str = _flag("wt103", "vocabulary rule; text is for any folder of three files", choices=DATASETS)

    # model
    n_layer: int = _flag(12, "applications of the cell in the shallow stage", least=1)
    eval_n_layer: int = _flag(12, "applications of the cell when --eval evaluates a shallow model", least=1)
    n_head: int = _flag(10, "attention heads", least=1)
    d_head: int = _flag(50, "width of a head; n_head * d_head must be d_model", least=1)
    d_embed: int = _flag(-1, "width of the embedding; -1 means d_model", least=1, besides=-1, below=2**31)
    d_model: int = _flag(500, "width of the states", least=1, below=2**31)
    d_inner: int = _flag(8000, "width of the feed-forward layer", least=1, below=2**31)
    dropout: float = _flag(0.0, "dropout everywhere but on attention weights", least=0, below=1)
    dropatt: float = _flag(0.0, "dropout on attention weights", least=0, below=1)
    out_dropout: str = _flag("position", "what the output dropout drops whole", choices=DROPOUT_UNITS, listed=False)
    not_tied: bool = _flag(False, "separate embedding and softmax weights")
    adaptive: bool = _flag(False, "adaptive embedding and softmax")
    cutoffs: tuple[int, ...] | None = _flag(
        None,
        "word ids at which the bins of --adaptive start; needed with --adaptive, default 20000 40000 200000 for wt103",
        kind=int,
        several=True,
        least=1,
        listed=False,
    )
    div_val: int = _flag(1, "bin i of --adaptive has embeddings of width d_embed // div_val**i", least=1)
    pre_lnorm: bool = _flag(False, "layer norm before each sublayer, not after")
    wnorm: bool = _flag(False, "weight normalisation in the cell")
    local_size: int = _flag(0, "attention horizon; 0 means none", least=0)
    same_length: bool = _flag(False, "every token attends over the same number of keys")
    attn_type: int = _flag(0, "kind of attention; only 0 (relative positions) exists")

    # initialisation
    init: str = _flag("normal", "initialiser of the weights", choices=INITIALISERS)
    emb_init: str = _flag("normal", "initialiser of the embeddings", choices=INITIALISERS)
    init_range: float = _flag(0.05, "half-width of the weights' uniform initialiser", least=0)
    emb_init_range: float = _flag(0.01, "half-width of the embeddings' uniform initialiser", least=0)
    init_std: float = _flag(0.01, "standard deviation of the normal initialiser", least=0)
    proj_init_std: float = _flag(0.01, "standard deviation of the projections", least=0)

    # equilibrium
    solver: str = _flag("anderson", "fixed-point solver", choices=tuple(SOLVERS))
    stop_mode: str = _flag("rel", "relative or absolute residual in the forward solve", choices=STOP_MODES)
    b_stop_mode: str = _flag("rel", "the same in the backward solve", choices=STOP_MODES, listed=False)
    stop_scope: str = _flag(
        "batch",
        "whose residual stops the solves: the whole batch's, or each sequence's its own",
        choices=STOP_SCOPES,
        listed=False,
    )
    b_solver: str | None = _flag(
        None, "solver of the backward solve (default: that of --solver)", kind=str, choices=tuple(SOLVERS), listed=False
    )
    b_init: str = _flag(
        "zero",
        "start of the backward solve: zero, or the forward solve's inverse Jacobian applied to the gradient",
        choices=BACKWARD_STARTS,
        listed=False,
    )
    f_history: int | None = _flag(
        None, "updates that a Broyden estimate is made of, the newest (default: all)", kind=int, least=1, listed=False
    )
    anderson_ridge: float | None = _flag(
        None,
        "absolute ridge of Anderson's systems, 1e-4 as published (default: one relative to the system)",
        kind=float,
        least=0,
        listed=False,
    )
    grad: str = _flag(
        "implicit",
        "gradient of the equilibrium: implicit differentiation, one application of the cell, --phantom_steps damped "
        "ones, or --f_thres plain ones in place of a solve",
        choices=GRADIENTS,
        listed=False,
    )
    phantom_steps: int = _flag(5, "steps of --grad phantom", least=1, listed=False)
    phantom_damping: float = _flag(
        0.5, "damping of --grad phantom, at most 1", above=0, below=1, besides=1, listed=False
    )
    f_thres: int = _flag(50, "solver threshold, forward", least=0)
    b_thres: int = _flag(80, "solver threshold, backward", least=0)
    f_eps: float = _flag(1e-3, "residual at which the forward solve has converged", least=0, listed=False)
    b_eps: float = _flag(1e-3, "residual at which the backward solve has converged", least=0, listed=False)
    rand_f_thres_delta: int = _flag(
        0,
        "in training, each forward solve's threshold is drawn from --f_thres minus to plus this",
        least=0,
        listed=False,
    )
    jac_loss_weight: float = _flag(
        0.0,
        "weight of the penalty on the equilibrium's Jacobian, 0 means none; published are 1.6 to 2",
        least=0,
        listed=False,
    )
    jac_loss_freq: float = _flag(
        0.4, "probability that an update has the penalty", above=0, below=1, besides=1, listed=False
    )
    jac_incremental: int = _flag(
        0, "steps after which --jac_loss_weight rises by 0.1, again and again; 0 means never", least=0, listed=False
    )
    jac_samples: int = _flag(1, "random vectors v of the penalty", least=1, listed=False)
    pretrain_steps: int = _flag(0, "the shallow stage lasts while the step's number is below this", least=0)
    start_train_steps: int = _flag(0, "number of the first step", least=0)

    # optimisation
    optim: str = _flag("Adam", "optimizer", choices=OPTIMIZERS)
    lr: float = _flag(0.00025, "learning rate", above=0)
    scheduler: str = _flag("cosine", "course of the learning rate", choices=SCHEDULERS)
    warmup_step: int = _flag(0, "steps of linear warm-up", least=0)
    decay_rate: float = _flag(0.5, "dev_perf: factor on a plateau", above=0, below=1)
    lr_min: float = _flag(0.0, "dev_perf: smallest learning rate", least=0)
    patience: int = _flag(0, "dev_perf: validations without progress before the rate falls", least=0)
    eta_min: float = _flag(0.0, "cosine: last learning rate", least=0)
    weight_decay: float = _flag(0.0, "weight decay (decoupled with RAdam)", least=0)
    clip: float = _flag(0.25, "largest global norm of the gradient", above=0)
    clip_nonemb: bool = _flag(False, "leave the embeddings out of the clipping")
    max_step: int = _flag(200000, "number of the step at which training ends", least=1)
    batch_size: int = _flag(60, "sequences per update, over all devices", least=1)
    batch_chunk: int = _flag(1, "parts in which a batch is computed one after the other, to save memory", least=1)
    tgt_len: int = _flag(150, "length of a training segment", least=1)
    eval_tgt_len: int = _flag(150, "length of an evaluation segment", least=1)
    mem_len: int = _flag(150, "length of the memory", least=0)
    varlen: bool = _flag(False, "training segments of varying length")
    seed: int = _flag(1111, "random seed", least=0, below=2**32)

    # devices
    cuda: bool = _flag(False, "run on the GPU")
    multi_gpu: bool = _flag(False, "use all visible GPUs, a process for each")
    gpu0_bsz: int = _flag(-1, "sequences for the first of several processes; -1 means even", least=1, besides=-1)

    # running
    eval: bool = _flag(False, "evaluate --load or --restart_dir on valid and test, then stop")
    load: str = _flag("", "state dict to start from, or to evaluate")
    restart: bool = _flag(False, "go on with the run in --restart_dir; flags that are left out keep its values")
    restart_dir: str = _flag("", "folder of an earlier run")
    save_interval: int | None = _flag(
        None, "steps between checkpoints (default: those between validations)", kind=int, least=1, listed=False
    )
    max_bad_steps: int = _flag(
        10,
        "updates in a row whose loss or gradient is not finite, and which are skipped, at which the run stops",
        least=1,
        listed=False,
    )
    sweep: str = _flag(
        "",
        'with --eval: evaluate all combinations of these values, such as "f_thres=4,8,16 mem_len=0,75"',
        listed=False,
    )
    spectral_radius: bool = _flag(
        False,
        "evaluations estimate the spectral radius of the equilibrium's Jacobian too, on 10 segments",
        listed=False,
    )
    max_eval_steps: int = _flag(-1, "segments of an evaluation; -1 means all", least=1, besides=-1)
    log_interval: int = _flag(200, "steps between log lines", least=1, spelling="--log-interval")
    eval_interval: int = _flag(4000, "steps between validations", least=1, spelling="--eval-interval")
    work_dir: str = _flag("LM-TFM", "runs go to <work_dir>deq-<dataset>/<timestamp or name>")
    name: str = _flag(NO_NAME, f"name of the run; {NO_NAME} means a timestamp")
    debug: bool = _flag(False, "write nothing to disk but the cache of the encoded corpus")

    def shared_with(self, kind: type) -> dict[str, Any]:
        """The settings that another dataclass has under the same names."""
        own = vars(self)
        return {field.name: own[field.name] for field in dataclasses.fields(kind) if field.name in own}

    @property
    def steps_between_saves(self) -> int:
        """Steps between checkpoints."""
        return self.save_interval or self.eval_interval

    def shallow_layers(self, step: int) -> int | None:
        """Applications of the cell in training step number `step`; None means the equilibrium."""
        return self.n_layer if 0 <= step < self.pretrain_steps else None

    def eval_layers(self) -> int | None:
        """Applications of the cell with --eval; None means the equilibrium."""
        return self.eval_n_layer if 0 <= self.start_train_steps < self.pretrain_steps else None


def flags_of(settings: type[Settings] | Settings) -> dict[str, Flag]:
    """Setting name -> its flag, in the order of declaration."""
    return {field.name: field.metadata["flag"] for field in dataclasses.fields(settings)}
