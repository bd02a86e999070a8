"""The settings that make a DEQ-TrellisNet language model: its flags, and the configuration that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.bins import BinFlags
from system.flag import ITS_SHAPE, TRAINED_WITH, Need, flag
from utils.adaptive_embedding import check_bins

MIXTURE = Need("--n_experts", lambda s: s.n_experts > 0)
EARLIER_TAPS = Need("--ksize 2 or more", lambda s: s.ksize > 1)  # those that see what is before a position


@dataclass(frozen=True)
class DEQTrellisNetFlags(BinFlags):
    """The settings that the model has beside those that all models share."""

    d_embed: int = flag(500, "width of the embedding", least=1, below=2**31, fixed=ITS_SHAPE, is_width=True)
    nhid: int = flag(
        1500, "hidden channels beside those of the output", least=0, below=2**31, fixed=ITS_SHAPE, is_width=True
    )
    nout: int = flag(
        500, "hidden channels that are the output, the last ones", least=1, below=2**31, fixed=ITS_SHAPE, is_width=True
    )
    ksize: int = flag(2, "taps of the convolution", least=1, below=2**31, fixed=ITS_SHAPE)
    dilation: int = flag(1, "positions between two taps", least=1, below=2**31, fixed=TRAINED_WITH, serves=EARLIER_TAPS)
    wnorm: bool = flag(False, "weight normalisation in the cell and of the injection", fixed=ITS_SHAPE)
    n_experts: int = flag(
        0, "softmaxes of a mixture, 0 means a single one", least=0, below=2**31, fixed=ITS_SHAPE, is_width=True
    )
    dropout: float = flag(0.0, "dropout of the output", least=0, below=1)
    dropouti: float = flag(0.0, "dropout of the embedded input", least=0, below=1)
    dropouth: float = flag(0.0, "dropout of the hidden part in the cell", least=0, below=1)
    dropoutl: float = flag(0.0, "dropout of the latent vectors of --n_experts", least=0, below=1, serves=MIXTURE)
    wdrop: float = flag(
        0.0, "DropConnect on the convolution's weight, on all taps but the last", least=0, below=1, serves=EARLIER_TAPS
    )
    emb_dropout: float = flag(0.0, "share of the words that are dropped whole from the embedding", least=0, below=1)


@dataclass(frozen=True)
class DEQTrellisNetConfig:
    """Shapes and regularisation; field names are those of the flags.

    Attributes:
        n_token: V, size of the vocabulary.
        d_embed: width of the word vectors.
        nhid, nout: the hidden part has h = nhid + nout channels, the last `nout` of which are the output.
        ksize, dilation: taps of the convolution, and positions between them.
        wnorm: weight normalisation of the convolution and the injection.
        cutoffs: first word ids of the adaptive softmax's further bins; empty for a plain softmax.
        div_val: bin i has embeddings of width d_embed // div_val^i.
        tied: embedding and softmax share their weights.
        n_experts: softmaxes of a mixture; 0 for a single softmax.
        dropout, dropouti, dropouth, dropoutl: rates, of the output, the embedded input, the hidden part, the latents.
        wdrop: rate of DropConnect.
        emb_dropout: rate at which words are dropped whole.

    Raises:
        ValueError: settings that contradict each other.
    """

    n_token: int
    d_embed: int
    nhid: int
    nout: int
    ksize: int = 2
    dilation: int = 1
    wnorm: bool = False
    adaptive: bool = False
    cutoffs: Sequence[int] = ()
    div_val: int = 1
    tied: bool = True
    n_experts: int = 0
    dropout: float = 0.0
    dropouti: float = 0.0
    dropouth: float = 0.0
    dropoutl: float = 0.0
    wdrop: float = 0.0
    emb_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.adaptive:
            check_bins(self.n_token, self.cutoffs, self.d_embed, self.div_val)
            if self.n_experts:
                raise ValueError("`n_experts` mixes softmaxes over the whole vocabulary: leave it or `adaptive` out")
        elif self.div_val != 1:
            raise ValueError(f"`div_val` is {self.div_val} but there are no bins to divide: add `adaptive`")
        elif self.tied and not self.n_experts and self.d_embed != self.nout:
            raise ValueError(
                f"`d_embed` {self.d_embed} is not `nout` {self.nout}, so that embedding and softmax cannot share their "
                "weights: make them equal, or pass `not_tied`, `n_experts` or `adaptive`"
            )

    @property
    def width(self) -> int:
        """h, channels of the hidden part."""
        return self.nhid + self.nout

    @property
    def d_input(self) -> int:
        """Channels that the injection sees: an adaptive embedding projects to the output's."""
        return self.nout if self.adaptive else self.d_embed
