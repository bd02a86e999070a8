"""The settings that every language model's training shares, each declared once: name, type, default, meaning, range.

What a model adds is in its `ModelSpec.flags`; `settings_class` puts both together.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data.corpus import DATASETS
from modules.settings import BACKWARD_STARTS, GRADIENTS
from modules.solvers import SOLVERS
from modules.stop_rule import STOP_MODES
from modules.tracker import STOP_SCOPES
from system.flag import AT_THE_BEGINNING, OF_THE_CALL, Need, Note, SolverOption, flag
from utils.optimizers import OPTIMIZERS
from utils.schedules import SCHEDULES

NO_NAME = "N/A"
OF_ITS_ROWS = "the position in the text and the memory count its rows"
IN_ITS_FOLDER = "the run goes on in its own folder"


def _with_solver(name: str) -> Need:
    return Need(f"--solver or --b_solver {name}", lambda s: name in (s.solver, s.b_solver))


IMPLICIT = Need("--grad implicit", lambda s: s.grad == "implicit")
REVERSIBLE = Need("--grad reversible", lambda s: s.grad == "reversible")
PHANTOM = Need("--grad phantom", lambda s: s.grad == "phantom")
PENALTY = Need("--jac_loss_weight", lambda s: s.jac_loss_weight > 0)
AN_EQUILIBRIUM = "an equilibrium (--pretrain_steps 0)"


@dataclass(frozen=True)
class DataSettings:
    """The corpus."""

    data: str = flag("../data/wikitext-103", "folder with train.txt, valid.txt and test.txt", is_place=True)
    dataset: str = flag(
        "wt103",
        "vocabulary rule; text is for any folder of three files",
        choices=tuple(DATASETS),
        fixed="the corpus has its numbering",
    )


@dataclass(frozen=True)
class ShallowSettings:
    """How deep a model goes where it does not solve."""

    n_layer: int = flag(12, "applications of the cell in the shallow stage", least=1)
    eval_n_layer: int = flag(12, "applications of the cell when --eval evaluates a shallow model", least=1)


@dataclass(frozen=True)
class EquilibriumSettings:
    """The solves, their gradient and its stability, and when they begin. Ranges are those of `DEQModule`."""

    solver: str = flag("anderson", "fixed-point solver", choices=tuple(SOLVERS), sweeps=True)
    stop_mode: str = flag(
        "rel", "relative or absolute residual in the forward solve", choices=tuple(STOP_MODES), sweeps=True
    )
    b_stop_mode: str = flag("rel", "the same in the backward solve", choices=tuple(STOP_MODES), listed=False)
    stop_scope: str = flag(
        "batch",
        "whose residual stops the solves: the whole batch's, or each sequence's its own",
        choices=tuple(STOP_SCOPES),
        listed=False,
        sweeps=True,
    )
    b_solver: str | None = flag(
        None, "solver of the backward solve (default: that of --solver)", kind=str, choices=tuple(SOLVERS), listed=False
    )
    b_init: str = flag(
        "zero",
        "start of the backward solve: zero, or the forward solve's inverse Jacobian applied to the gradient",
        choices=tuple(BACKWARD_STARTS),
        listed=False,
        needs=(IMPLICIT,),
    )
    f_history: int | None = flag(
        None,
        "updates that a Broyden estimate is made of, the newest (default: all)",
        kind=int,
        listed=False,
        needs=(_with_solver("broyden"),),
        sweeps=True,
        solver_option=SolverOption("broyden", "history", label="history"),
    )
    anderson_ridge: float | None = flag(
        None,
        "absolute ridge of Anderson's systems, 1e-4 as published (default: one relative to the system)",
        kind=float,
        listed=False,
        needs=(_with_solver("anderson"),),
        sweeps=True,
        solver_option=SolverOption("anderson", "lam", label="ridge"),
    )
    grad: str = flag(
        "implicit",
        "gradient of the equilibrium: implicit differentiation, one application of the cell, --phantom_steps damped "
        "ones, or in place of a solve --f_thres plain ones (unroll) or steps of an iteration that can be run backwards "
        "and so needs a fraction of that memory (reversible)",
        choices=tuple(GRADIENTS),
        listed=False,
    )
    phantom_steps: int = flag(5, "steps of --grad phantom", listed=False, needs=(PHANTOM,))
    phantom_damping: float = flag(0.5, "damping of --grad phantom, at most 1", listed=False, needs=(PHANTOM,))
    rev_beta: float = flag(0.8, "damping of --grad reversible, between 0 and 1", listed=False, needs=(REVERSIBLE,))
    f_thres: int = flag(
        50,
        "solver threshold, forward: steps; with anderson evaluations of the cell, which are one more than its steps",
        sweeps=True,
    )
    b_thres: int = flag(80, "solver threshold, backward, counted likewise")
    f_eps: float = flag(1e-3, "residual at which the forward solve has converged", listed=False, sweeps=True)
    b_eps: float = flag(1e-3, "residual at which the backward solve has converged", listed=False)
    rand_f_thres_delta: int = flag(
        0,
        "in training, each forward solve's threshold is drawn from --f_thres minus to plus this",
        least=0,
        listed=False,
        needs=(Need("a solver in training (any --grad but unroll)", lambda s: s.grad != "unroll"),),
    )
    jac_loss_weight: float = flag(
        0.0,
        "weight of the penalty on the equilibrium's Jacobian, 0 means none; published are 1.6 to 2",
        least=0,
        listed=False,
    )
    jac_loss_freq: float = flag(
        0.4,
        "probability that an update has the penalty",
        above=0,
        below=1,
        or_exactly=1,
        listed=False,
        needs=(PENALTY,),
    )
    jac_incremental: int = flag(
        0,
        "steps after which --jac_loss_weight rises by 0.1, again and again; 0 means never",
        least=0,
        listed=False,
        needs=(PENALTY,),
    )
    jac_samples: int = flag(1, "random vectors v of the penalty", least=1, listed=False, needs=(PENALTY,))
    pretrain_steps: int = flag(
        0,
        "the shallow stage lasts while the step's number is below this",
        least=0,
        note=Note(
            lambda s: s.pretrain_steps >= s.max_step,
            "the whole run is shallow; the solver and its flags are not used",
            beside="max_step",
        ),
    )
    start_train_steps: int = flag(0, "number of the first step", least=0, fixed=AT_THE_BEGINNING)


@dataclass(frozen=True)
class OptimisationSettings:
    """The updates: their rule, their rate, their batches. Lengths are in tokens."""

    optim: str = flag("Adam", "optimizer", choices=tuple(OPTIMIZERS), fixed="the optimizer's state is its own")
    lr: float = flag(0.00025, "learning rate", above=0)
    scheduler: str = flag("cosine", "course of the learning rate", choices=tuple(SCHEDULES))
    warmup_step: int = flag(
        0,
        "steps of linear warm-up",
        least=0,
        note=Note(lambda s: s.warmup_step >= s.max_step, "the run ends within its warm-up", beside="max_step"),
    )
    decay_rate: float = flag(0.5, "dev_perf: factor on a plateau", above=0, below=1)
    lr_min: float = flag(
        0.0,
        "dev_perf: smallest learning rate",
        least=0,
        note=Note(
            lambda s: s.scheduler == "dev_perf" and s.lr_min > s.lr, "the learning rate stays at --lr", beside="lr"
        ),
    )
    patience: int = flag(0, "dev_perf: validations without progress before the rate falls", least=0)
    eta_min: float = flag(
        0.0,
        "cosine: last learning rate",
        least=0,
        note=Note(
            lambda s: s.scheduler == "cosine" and s.eta_min > s.lr,
            "the learning rate rises from --lr to --eta_min",
            beside="lr",
        ),
    )
    weight_decay: float = flag(0.0, "weight decay (decoupled with RAdam)", least=0)
    clip: float = flag(0.25, "largest global norm of the gradient", above=0)
    clip_nonemb: bool = flag(False, "leave the embeddings out of the clipping")
    max_step: int = flag(200000, "number of the step at which training ends", least=1)
    batch_size: int = flag(60, "sequences per update, over all devices", least=1, fixed=OF_ITS_ROWS)
    batch_chunk: int = flag(1, "parts in which a batch is computed one after the other, to save memory", least=1)
    tgt_len: int = flag(150, "length of a training segment", least=1)
    eval_tgt_len: int = flag(150, "length of an evaluation segment", least=1, sweeps=True)
    mem_len: int = flag(150, "length of the memory", least=0, sweeps=True)
    varlen: bool = flag(False, "training segments of varying length")
    seed: int = flag(1111, "random seed", least=0, below=2**32)


@dataclass(frozen=True)
class DeviceSettings:
    """Where a run computes."""

    cuda: bool = flag(False, "run on the GPU", fixed=OF_THE_CALL)
    multi_gpu: bool = flag(False, "use all visible GPUs, a process for each", fixed=OF_THE_CALL)
    gpu0_bsz: int = flag(
        -1, "sequences for the first of several processes; -1 means even", least=1, or_exactly=-1, fixed=OF_THE_CALL
    )


@dataclass(frozen=True)
class RunSettings:
    """What is done, and what is written down of it. Steps are optimizer updates."""

    eval: bool = flag(False, "evaluate --load or --restart_dir on valid and test, then stop", fixed=OF_THE_CALL)
    load: str = flag("", "state dict to start from, or to evaluate", fixed=OF_THE_CALL, is_place=True)
    restart: bool = flag(
        False, "go on with the run in --restart_dir; flags that are left out keep its values", fixed=OF_THE_CALL
    )
    restart_dir: str = flag("", "folder of an earlier run", fixed=OF_THE_CALL, is_place=True)
    save_interval: int | None = flag(
        None, "steps between checkpoints (default: those between validations)", kind=int, least=1, listed=False
    )
    max_bad_steps: int = flag(
        10,
        "updates in a row whose loss or gradient is not finite, and which are skipped, at which the run stops",
        least=1,
        listed=False,
    )
    sweep: str = flag(
        "",
        'with --eval: evaluate all combinations of these values, such as "f_thres=4,8,16 mem_len=0,75"',
        listed=False,
        needs=(Need("--eval", lambda s: s.eval), Need(AN_EQUILIBRIUM, lambda s: not s.evaluates_shallow)),
        fixed=OF_THE_CALL,
    )
    spectral_radius: bool = flag(
        False,
        "evaluations estimate the spectral radius of the equilibrium's Jacobian too, on 10 segments",
        listed=False,
        needs=(Need(AN_EQUILIBRIUM, lambda s: not (s.eval and s.evaluates_shallow)),),
    )
    max_eval_steps: int = flag(-1, "segments of an evaluation; -1 means all", least=1, or_exactly=-1)
    log_interval: int = flag(200, "steps between log lines", least=1, spelling="--log-interval")
    eval_interval: int = flag(4000, "steps between validations", least=1, spelling="--eval-interval")
    work_dir: str = flag("LM-TFM", "runs go to <work_dir>deq-<dataset>/<timestamp or name>", fixed=IN_ITS_FOLDER)
    name: str = flag(NO_NAME, f"name of the run; {NO_NAME} means a timestamp", fixed=IN_ITS_FOLDER)
    debug: bool = flag(False, "write nothing to disk but the cache of the encoded corpus", fixed=OF_THE_CALL)

    @property
    def steps_between_saves(self) -> int:
        """Steps between checkpoints."""
        return self.save_interval or self.eval_interval

    @property
    def evaluates_shallow(self) -> bool:
        """Whether --eval applies the cell --eval_n_layer times, and does not solve."""
        return 0 <= self.start_train_steps < self.pretrain_steps


# The first class's fields come last: a dataclass begins with those of its last base.
BEHIND_THE_MODEL = (RunSettings, DeviceSettings, OptimisationSettings, EquilibriumSettings)
BEFORE_THE_MODEL = (ShallowSettings, DataSettings)


@dataclass(frozen=True)
class Settings(*BEHIND_THE_MODEL, *BEFORE_THE_MODEL):
    """The resolved settings of a run, without a model's own."""


def settings_class(model_flags: type) -> type[Settings]:
    """The settings of a program: the shared ones, with a model's in their midst."""
    bases = (*BEHIND_THE_MODEL, model_flags, *BEFORE_THE_MODEL)
    return dataclasses.make_dataclass("Settings", (), bases=bases, frozen=True)


def shared_with(settings: Any, names: Iterable[str]) -> dict[str, Any]:
    """The settings of these names, where there are such."""
    own = vars(settings)
    return {name: own[name] for name in names if name in own}
