"""The settings that Transformers share, whether one layer is repeated or several follow one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.bins import BinFlags
from models.transformers.initialisation import INITIALISERS
from system.flag import AT_THE_BEGINNING, ITS_SHAPE, OF_THE_CALL, TRAINED_WITH, Need, flag

ARCHITECTURES = ("deq_transformer", "transformer_xl")
PRESETS = ("equilibrium", "published")  # files in config/presets
WIDEST = 1e6  # of an initialiser; what is far above overflows in float32 as soon as it is multiplied


def architecture(name: str) -> Any:
    """The setting that tells one model of a program from the others; its value is its default."""
    return flag(
        name,
        "the model; each has a --help of its own",
        choices=ARCHITECTURES,
        listed=False,
        fixed="the run is of that model",
    )


def _initialiser(setting: str, name: str) -> Need:
    return Need(f"--{setting} {name}", lambda s: getattr(s, setting) == name)


@dataclass(frozen=True)
class TransformerFlags(BinFlags):
    """Widths, dropout, memory and initial values."""

    preset: str | None = flag(
        None,
        "take settings that go together, whatever the widths and the corpus: a DEQ-Transformer as recommended "
        "(equilibrium) or as published; --config and flags override them",
        kind=str,
        choices=PRESETS,
        listed=False,
        fixed=OF_THE_CALL,
    )
    n_head: int = flag(10, "attention heads", least=1, fixed=ITS_SHAPE)
    d_head: int = flag(50, "width of a head", least=1, fixed=ITS_SHAPE)
    d_embed: int = flag(
        -1,
        "width of the embedding; -1 means d_model",
        least=1,
        or_exactly=-1,
        below=2**31,
        fixed=ITS_SHAPE,
        is_width=True,
    )
    d_model: int = flag(500, "width of the states", least=1, below=2**31, fixed=ITS_SHAPE, is_width=True)
    d_inner: int = flag(8000, "width of the feed-forward layer", least=1, below=2**31, fixed=ITS_SHAPE, is_width=True)
    dropout: float = flag(0.0, "dropout everywhere but on attention weights", least=0, below=1)
    dropatt: float = flag(0.0, "dropout on attention weights", least=0, below=1)
    mem_len: int = flag(150, "length of the memory", least=0, sweeps=True)
    same_length: bool = flag(False, "every token attends over the same number of keys", scored=True)
    attn_type: int = flag(0, "kind of attention; only 0 (relative positions) exists", fixed=TRAINED_WITH)

    init: str = flag("normal", "initialiser of the weights", choices=tuple(INITIALISERS), fixed=AT_THE_BEGINNING)
    emb_init: str = flag("normal", "initialiser of the embeddings", choices=tuple(INITIALISERS), fixed=AT_THE_BEGINNING)
    init_range: float = flag(
        0.05,
        "half-width of the weights' uniform initialiser",
        least=0,
        below=WIDEST,
        fixed=AT_THE_BEGINNING,
        serves=_initialiser("init", "uniform"),
    )
    emb_init_range: float = flag(
        0.01,
        "half-width of the embeddings' uniform initialiser",
        least=0,
        below=WIDEST,
        fixed=AT_THE_BEGINNING,
        serves=_initialiser("emb_init", "uniform"),
    )
    init_std: float = flag(
        0.01, "standard deviation of the normal initialiser", least=0, below=WIDEST, fixed=AT_THE_BEGINNING
    )
    proj_init_std: float = flag(
        0.01, "standard deviation of the projections", least=0, below=WIDEST, fixed=AT_THE_BEGINNING
    )
