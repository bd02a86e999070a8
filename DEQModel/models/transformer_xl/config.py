"""The settings that make a Transformer-XL language model: its flags, and the configuration that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.transformers.flags import WIDEST, TransformerFlags, architecture
from system.flag import AT_THE_BEGINNING, ITS_SHAPE, TRAINED_WITH, flag
from utils.adaptive_embedding import check_bins


@dataclass(frozen=True)
class TransformerXLFlags(TransformerFlags):
    """The settings that the model has beside those that all models share."""

    arch: str = architecture("transformer_xl")
    n_layer: int = flag(12, "layers", least=1, below=2**31, fixed=ITS_SHAPE, is_width=True)
    d_inner: int = flag(1000, "width of the feed-forward layers", least=1, below=2**31, fixed=ITS_SHAPE, is_width=True)
    pre_lnorm: bool = flag(False, "layer norm before each sublayer, not after", fixed=TRAINED_WITH)
    clamp_len: int = flag(
        -1,
        "keys that are further away than this have the position of that distance; -1 means none are",
        least=1,
        or_exactly=-1,
        listed=False,
        sweeps=True,
    )
    init_std: float = flag(
        0.02, "standard deviation of the normal initialiser", least=0, below=WIDEST, fixed=AT_THE_BEGINNING
    )


@dataclass(frozen=True)
class TransformerXLConfig:
    """Shapes, regularisation and reach; field names are those of the flags.

    Attributes:
        n_token: V, size of the vocabulary.
        n_layer: N.
        n_head, d_head, d_model: H, E and D, which is even; H·E need not be D.
        d_inner: F, width of the feed-forward layers.
        d_embed: width of the first bin's embeddings.
        cutoffs: first word ids of the softmax's further bins; empty for a plain softmax.
        div_val: bin i has embeddings of width d_embed // div_val^i.
        tied: embedding and softmax share their weights.
        dropout, dropatt: rates; `dropatt` is that of the attention weights.
        pre_lnorm: layer norm before the sublayers.
        mem_len: positions that each layer remembers from one segment to the next.
        clamp_len: longest distance that has an embedding of its own, -1 for no limit.
        same_length: every query attends over the same number of keys, `mem_len` of them.

    Raises:
        ValueError: settings that contradict each other.
    """

    n_token: int
    n_layer: int
    n_head: int
    d_head: int
    d_model: int
    d_inner: int
    d_embed: int
    cutoffs: Sequence[int] = ()
    div_val: int = 1
    tied: bool = True
    dropout: float = 0.0
    dropatt: float = 0.0
    pre_lnorm: bool = False
    mem_len: int = 0
    clamp_len: int = -1
    same_length: bool = False

    def __post_init__(self) -> None:
        if self.d_model % 2:
            raise ValueError(f"`d_model` is {self.d_model}: pass an even width, as positions are sines and cosines")
        if self.same_length and self.mem_len == 0:
            raise ValueError("`same_length` needs a memory, but `mem_len` is 0: pass a `mem_len` above 0")
        check_bins(self.n_token, self.cutoffs, self.d_embed, self.div_val)

    @property
    def horizon(self) -> int:
        """Keys that a query may attend over, itself included; 0 for all."""
        return self.mem_len if self.same_length else 0
