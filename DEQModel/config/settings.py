"""The settings that every language model's training shares, each declared once: name, type, default, meaning, range.

What a model adds is in its `ModelSpec.flags`; `settings_class` puts both together.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from config.run_settings import DeviceSettings, RecordSettings, TaskSettings
from config.solve_settings import GradientSettings, SolveSettings, StageSettings
from data.batches import SHORTEST
from data.corpus import DATASETS
from system.flag import Need, Note, flag
from utils.optimizers import OPTIMIZERS
from utils.schedules import SCHEDULES

IN_FLOAT32 = 1e38  # what is above is infinite there
FALLING = ("cosine", "trapezoid")  # schedules that end at eta_min
OF_ITS_ROWS = "the position in the text and the memory count its rows"


def _scheduler(name: str) -> Need:
    return Need(f"--scheduler {name}", lambda s: s.scheduler == name)


@dataclass(frozen=True)
class DataSettings:
    """The corpus."""

    data: str = flag("../data/wikitext-103", "folder with train.txt, valid.txt and test.txt", is_place=True)
    dataset: str = flag(
        "wt103",
        "vocabulary rule; text is for any folder of three files",
        choices=tuple(DATASETS),
        fixed="the corpus has its numbering",
        scored=True,
    )


@dataclass(frozen=True)
class OptimisationSettings:
    """The updates: their rule, their rate, their batches. Lengths are in tokens."""

    optim: str = flag("Adam", "optimizer", choices=tuple(OPTIMIZERS), fixed="the optimizer's state is its own")
    lr: float = flag(0.00025, "learning rate", above=0, below=IN_FLOAT32)
    scheduler: str = flag("cosine", "course of the learning rate", choices=tuple(SCHEDULES))
    warmup_step: int = flag(
        0,
        "steps of linear warm-up",
        least=0,
        note=Note(lambda s: s.warmup_step >= s.max_step, "the run ends within its warm-up", beside="max_step"),
    )
    decay_rate: float = flag(0.5, "dev_perf: factor on a plateau", above=0, below=1, serves=_scheduler("dev_perf"))
    lr_min: float = flag(
        0.0,
        "dev_perf: smallest learning rate",
        least=0,
        below=IN_FLOAT32,
        note=Note(
            lambda s: s.scheduler == "dev_perf" and s.lr_min > s.lr, "the learning rate stays at --lr", beside="lr"
        ),
        serves=_scheduler("dev_perf"),
    )
    patience: int = flag(
        0, "dev_perf: validations without progress before the rate falls", least=0, serves=_scheduler("dev_perf")
    )
    eta_min: float = flag(
        0.0,
        "cosine, trapezoid: last learning rate",
        least=0,
        below=IN_FLOAT32,
        note=Note(
            lambda s: s.scheduler in FALLING and s.eta_min > s.lr,
            "the learning rate rises from --lr to --eta_min",
            beside="lr",
        ),
        serves=Need("--scheduler cosine or trapezoid", lambda s: s.scheduler in FALLING),
    )
    when: tuple[int, ...] = flag(
        (),
        "steps (optimizer updates, not epochs) at which the learning rate is divided by 10",
        kind=int,
        several=True,
        least=1,
        listed=False,
    )
    anneal: int = flag(
        0,
        "divide the learning rate by 10 after a validation whose loss is above the best of those more than this many "
        "validations old; 0 means never",
        least=0,
        listed=False,
    )
    asgd: bool = flag(
        False,
        "averaged SGD: from a validation without progress on, the mean of the weights is validated and kept",
        listed=False,
        needs=(Need("--optim SGD", lambda s: s.optim == "SGD"),),
    )
    nonmono: int = flag(
        5,
        "averaging begins after a validation whose loss is above the best of those more than this many validations old",
        least=0,
        listed=False,
        needs=(Need("--asgd", lambda s: s.asgd),),
    )
    alpha: float = flag(
        0.0,
        "weight of the mean square of the states after the output dropout (AR)",
        least=0,
        below=IN_FLOAT32,
        listed=False,
    )
    beta: float = flag(
        0.0,
        "weight of the mean square of the difference between the states of adjacent tokens (TAR)",
        least=0,
        below=IN_FLOAT32,
        listed=False,
    )
    weight_decay: float = flag(
        0.0,
        "weight decay (decoupled with RAdam and Muon; Muon spares norms and biases)",
        least=0,
        below=IN_FLOAT32,
    )
    adam_ratio: float = flag(
        0.1,
        "Muon: Adam's rate, for embedding, softmax, norms and biases, as a multiple of --lr",
        least=0,
        below=1e6,
        listed=False,
        needs=(Need("--optim Muon", lambda s: s.optim == "Muon"),),
    )
    clip: float = flag(0.25, "largest global norm of the gradient", above=0)
    clip_nonemb: bool = flag(False, "leave the embeddings out of the clipping")
    max_step: int = flag(200000, "number of the step at which training ends", least=1)
    batch_size: int = flag(60, "sequences per update, over all devices", least=1, fixed=OF_ITS_ROWS)
    batch_chunk: int = flag(1, "parts in which a batch is computed one after the other, to save memory", least=1)
    tgt_len: int = flag(
        150,
        "length of a training segment",
        least=1,
        also="--seq_len",
        note=Note(
            lambda s: s.varlen and s.tgt_len < SHORTEST, f"segments of varying length have {SHORTEST} tokens or more"
        ),
    )
    eval_tgt_len: int = flag(150, "length of an evaluation segment", least=1, sweeps=True)
    varlen: bool = flag(False, "training segments of varying length")
    seed: int = flag(1111, "random seed", least=0, below=2**32)


SHARED = {  # title -> settings, in the order of their declaration
    "data": DataSettings,
    "stages": StageSettings,
    "solves": SolveSettings,
    "gradient": GradientSettings,
    "optimisation": OptimisationSettings,
    "devices": DeviceSettings,
    "what to do": TaskSettings,
    "record": RecordSettings,
}
SHOWN_FIRST = ("what to do", "data")  # in the help; the model's come next
LAST_FIRST = tuple(SHARED.values())[::-1]  # a dataclass begins with the fields of its last base


@dataclass(frozen=True)
class Settings(*LAST_FIRST):
    """The resolved settings of a run, without a model's own."""


def settings_class(model_flags: type) -> type[Settings]:
    """The settings of a program: the shared ones and a model's."""
    return dataclasses.make_dataclass("Settings", (), bases=(model_flags, *LAST_FIRST), frozen=True)


def help_groups(model: str, model_flags: type) -> dict[str, type]:
    """Title -> settings, in the order in which the help shows them."""
    first = {title: SHARED[title] for title in SHOWN_FIRST}
    return {**first, model: model_flags, **SHARED}


def shared_with(settings: Any, names: Iterable[str]) -> dict[str, Any]:
    """The settings of these names, where there are such."""
    own = vars(settings)
    return {name: own[name] for name in names if name in own}
