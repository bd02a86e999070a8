"""What the program that trains on synthetic tasks can be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from config.solve_settings import GradientSettings, SolveSettings
from config.stages import EQUILIBRIUM, solves_at_all
from models.transformers.cell import INJECTIONS
from modules.solvers import SOLVERS
from synthetic.curriculum import EXAMPLE, stages
from synthetic.models import MODELS
from synthetic.recipes import OF_DEQS, RECIPES
from synthetic.tasks import TASKS
from system.flag import Need, flag, flags_of

DEQ_MODELS = tuple(name for name in MODELS if name.startswith("deq_"))
A_DEQ = Need(f"--model {' or '.join(DEQ_MODELS)}", lambda s: s.model in DEQ_MODELS)

A_TRANSFORMER = Need("--model deq_transformer or stack", lambda s: s.model in ("deq_transformer", "stack"))
EMBEDS_APART = Need("--model lstm, gru or deq_trellisnet", lambda s: s.model in ("lstm", "gru", "deq_trellisnet"))
CONVOLVES = Need("--model tcn or deq_trellisnet", lambda s: s.model in ("tcn", "deq_trellisnet"))
A_TRELLISNET = Need("--model deq_trellisnet", lambda s: s.model == "deq_trellisnet")
A_CELL = Need("--model deq_transformer", lambda s: s.model == "deq_transformer")
HOPS = Need("--task p_hop", lambda s: s.task == "p_hop")
WITHOUT_STAGES = Need(f"--depth {EQUILIBRIUM}", lambda s: s.model in DEQ_MODELS and s.depth == EQUILIBRIUM)
SOLVES = Need(f"--depth {EQUILIBRIUM}", lambda s: s.model in DEQ_MODELS and solves_at_all(s.depth))
STAGES = Need("--curriculum", lambda s: s.curriculum != "")
MUON = Need("--optim Muon", lambda s: s.optim == "Muon")
ADAM = Need("--optim Adam", lambda s: s.optim == "Adam")


@dataclass(frozen=True)
class TaskSettings:
    """The task, and the lengths and numbers of its examples."""

    task: str = flag("copy_memory", "what is learned", choices=tuple(TASKS))
    seq_len: int = flag(100, "length T of training; copy_memory's sequences have T + 20 tokens", least=1)
    p: int = flag(4, "p_hop: how often the previous occurrence is followed", least=1, serves=HOPS)
    n_train: int = flag(0, "training sequences, drawn again and again; 0 means new ones at every update", least=0)
    n_test: int = flag(2000, "test sequences, the same ones for all seeds", least=1)
    test_lengths: tuple[int, ...] = flag(
        (), "lengths T that are tested (default: that of training)", kind=int, several=True, least=1
    )
    test_stages: bool = flag(False, "test after each stage of --curriculum too, on its task", needs=(STAGES,))
    test_solver: str | None = flag(
        None, "solver of the tests (default: that of --solver)", kind=str, choices=tuple(SOLVERS), needs=(SOLVES,)
    )
    test_thresholds: tuple[int, ...] = flag(
        (),
        "tests' solver thresholds, or with --depth N numbers of applications (default: as in training)",
        kind=int,
        several=True,
        least=1,
        serves=A_DEQ,
    )


@dataclass(frozen=True)
class ModelSettings:
    """The model and its widths; each model reads those that it has."""

    model: str = flag("deq_transformer", "what learns it", choices=tuple(MODELS))
    depth: str = flag(
        EQUILIBRIUM, "equilibrium, or a number: so many applications of the cell", kind=str, needs=(A_DEQ,)
    )
    d_model: int = flag(32, "width of the states; of a deq_trellisnet, of its hidden part", least=1)
    d_embed: int = flag(
        10,
        "lstm, gru, deq_trellisnet: width of the embedding, and of the last one's output",
        least=1,
        serves=EMBEDS_APART,
    )
    n_head: int = flag(4, "transformers: attention heads", least=1, serves=A_TRANSFORMER)
    d_inner: int = flag(64, "transformers: width of the feed-forward layer", least=1, serves=A_TRANSFORMER)
    inject: str = flag(
        "attention",
        "deq_transformer: where the input enters the cell: added to queries, keys and values, to the state, or to both",
        choices=tuple(INJECTIONS),
        serves=A_CELL,
    )
    inject_norm: bool = flag(False, "deq_transformer: layer norm over what is added to the state", serves=A_CELL)
    feedback: float | None = flag(
        None,
        "deq_transformer: what the gains of the state where it enters the cell begin at (default: no gains)",
        kind=float,
        serves=A_CELL,
    )
    norm_affine: bool = flag(False, "deq_transformer: the cell's layer norms learn a scale and a bias", serves=A_CELL)
    not_tied: bool = flag(False, "transformers: separate embedding and softmax weights", serves=A_TRANSFORMER)
    n_layer: int = flag(2, "layers; of a DEQ, applications of the cell in the shallow stage", least=1)
    kernel_size: int = flag(8, "tcn, deq_trellisnet: taps of the convolutions", least=2, serves=CONVOLVES)
    dilation: int = flag(1, "deq_trellisnet: positions between two taps", least=1, serves=A_TRELLISNET)
    init_std: float = flag(
        0.1,
        "standard deviation of a transformer's weights at the start; -1 for PyTorch's default",
        least=0,
        or_exactly=-1,
        below=1e6,
        serves=A_TRANSFORMER,
    )


@dataclass(frozen=True)
class CourseSettings:
    """The updates."""

    optim: str = flag("Adam", "optimizer", choices=("Adam", "Muon"))
    scheduler: str = flag("cosine", "course of the learning rate", choices=("cosine", "trapezoid", "constant"))
    lr: float = flag(0.003, "highest learning rate", above=0, below=1e38)
    beta2: float = flag(
        0.95, "Adam: how long the square of the gradient is remembered", least=0, below=1, needs=(ADAM,)
    )
    adam_ratio: float = flag(
        0.1, "Muon: Adam's rate for all that is no matrix, as a multiple of --lr", least=0, below=1e6, needs=(MUON,)
    )
    warmup_step: int = flag(100, "updates of linear warm-up", least=0)
    max_step: int = flag(2000, "updates", least=1)
    curriculum: str = flag(
        "",
        "stages of training that come before, each with a warm-up and fall of the rate of its own: settings and their "
        f"values, one a stage, as in {EXAMPLE}",
    )
    pretrain_steps: int = flag(
        0, "a DEQ's updates in the shallow stage, before it solves", least=0, serves=WITHOUT_STAGES
    )
    batch_size: int = flag(16, "sequences of an update", least=1)
    clip: float = flag(1.0, "largest norm of the gradient", above=0)
    seed: int = flag(1, "random seed of weights and training sequences", least=0, below=2**31)
    cuda: bool = flag(False, "run on the GPU")


@dataclass(frozen=True)
class RecordSettings:
    """What is written down."""

    out: str = flag("synthetic_runs", "folder of the figures, a JSON file a run", is_place=True)
    table: str = flag("", "print the table of the runs in this folder, and train nothing", is_place=True)


GROUPS = {
    "task": TaskSettings,
    "model": ModelSettings,
    "updates": CourseSettings,
    "solves": SolveSettings,
    "gradient": GradientSettings,
    "record": RecordSettings,
}


@dataclass(frozen=True)
class Settings(RecordSettings, GradientSettings, SolveSettings, CourseSettings, ModelSettings, TaskSettings):
    """The settings of a run."""

    @property
    def stages(self) -> list[Settings]:
        """Those of each stage of training, the last of which has these.

        Raises:
            UserError: `curriculum` names no stages.
        """
        return stages(self, self.curriculum)

    @property
    def lengths_to_test(self) -> tuple[int, ...]:
        """The lengths T of its tests."""
        return self.test_lengths or (self.seq_len,)

    @property
    def n_updates(self) -> int:
        """Updates of all stages."""
        return sum(stage.max_step for stage in self.stages)


def usual(task: str, model: str) -> dict[str, Any]:
    """The settings of this task and this model where nobody says anything."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    of_deqs = OF_DEQS if model in DEQ_MODELS else {}
    return {**defaults, **of_deqs, **RECIPES.get((task, model), {}), "task": task, "model": model}


def completed(given: Mapping[str, Any]) -> Settings:
    """The settings that are given, and the usual ones beside them."""
    defaults = usual(given.get("task", TaskSettings.task), given.get("model", ModelSettings.model))
    return Settings(**{**defaults, **given})


def of_no_use(settings: Settings) -> dict[str, Need]:
    """The settings that are not as usual and have no effect, each with what it lacks."""
    flags, defaults = flags_of(settings), usual(settings.task, settings.model)
    needs = {name: flag.serves for name, flag in flags.items() if flag.serves}
    needs |= dict.fromkeys([*flags_of(SolveSettings), *flags_of(GradientSettings)], SOLVES)
    return {
        name: need
        for name, need in needs.items()
        if getattr(settings, name) != defaults[name] and not need.is_there(settings)
    }


def without(settings: Settings, names: Iterable[str]) -> Settings:
    """The same with these as usual."""
    defaults = usual(settings.task, settings.model)
    return dataclasses.replace(settings, **{name: defaults[name] for name in names})
