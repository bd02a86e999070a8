"""The settings of a word embedding and softmax in bins, which all models here share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from system.flag import ITS_SHAPE, Need, Note, flag

DEFAULT_CUTOFFS = {"wt103": (20000, 40000, 200000)}


@dataclass(frozen=True)
class BinFlags:
    """Whether embedding and softmax are adaptive, where their bins start, and whether the two share weights."""

    not_tied: bool = flag(False, "separate embedding and softmax weights", fixed=ITS_SHAPE)
    adaptive: bool = flag(False, "adaptive embedding and softmax", fixed=ITS_SHAPE)
    cutoffs: tuple[int, ...] | None = flag(
        None,
        "word ids at which the bins of --adaptive start; needed with --adaptive, default 20000 40000 200000 for wt103",
        kind=int,
        several=True,
        least=1,
        below=2**31,
        listed=False,
        needs=(Need("--adaptive", lambda s: s.adaptive),),
        fixed=ITS_SHAPE,
    )
    div_val: int = flag(
        1,
        "bin i of --adaptive has embeddings of width d_embed // div_val**i",
        least=1,
        note=Note(
            lambda s: s.div_val > 1 and not s.adaptive,
            "without --adaptive there are no bins to divide; it only adds a projection",
        ),
        fixed=ITS_SHAPE,
    )


def resolved_cutoffs(settings: Any) -> Mapping[str, Any]:
    """The cutoffs, whose default rests on the dataset.

    Raises:
        ValueError: there is no default for it.
    """
    cutoffs = settings.cutoffs
    if cutoffs is None:
        cutoffs = DEFAULT_CUTOFFS.get(settings.dataset) if settings.adaptive else ()
    if cutoffs is None:
        raise ValueError(
            f"`adaptive` needs `cutoffs` with `dataset` {settings.dataset}: "
            "pass the word ids at which its bins start, such as `cutoffs` 2500 10000"
        )
    return {"cutoffs": cutoffs}
