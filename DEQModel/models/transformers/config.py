"""The settings that make a DEQ-Transformer language model: its flags, and the configuration that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.transformers.cell import INJECTIONS
from models.transformers.flags import TransformerFlags, architecture
from models.transformers.starts import STARTS
from modules.checks import AT_LEAST_ONE, COUNT, check_choice
from system.flag import ITS_SHAPE, TRAINED_WITH, Need, flag
from utils.adaptive_embedding import check_bins

OUT_DROPOUTS = ("position", "channel")


@dataclass(frozen=True)
class DEQTransformerFlags(TransformerFlags):
    """The settings that the model has beside those that all models share."""

    arch: str = architecture("deq_transformer")
    d_head: int = flag(50, "width of a head; n_head * d_head must be d_model", least=1, fixed=ITS_SHAPE)
    out_dropout: str = flag("position", "what the output dropout drops whole", choices=OUT_DROPOUTS, listed=False)
    pre_lnorm: bool = flag(
        False,
        "layer norm before each sublayer, not after; nothing then pulls the state back, so that there is rarely an "
        "equilibrium without --outer_norm",
        fixed=TRAINED_WITH,
    )
    outer_norm: bool = flag(
        False,
        "layer norm over the output of the cell of --pre_lnorm; it bounds the state, so that there is an equilibrium",
        listed=False,
        needs=(Need("--pre_lnorm", lambda s: s.pre_lnorm),),
        fixed=TRAINED_WITH,
    )
    norm_affine: bool = flag(False, "the cell's layer norms learn a scale and a bias", listed=False, fixed=ITS_SHAPE)
    heads_norm: bool = flag(
        False,
        "layer norm over the outputs of the attention heads, before their projection",
        listed=False,
        fixed=ITS_SHAPE,
    )
    cell_layers: int = flag(
        1,
        "pairs of attention and feed-forward that one application of the cell goes through, each with its own weights",
        least=1,
        listed=False,
        fixed=ITS_SHAPE,
    )
    inject: str = flag(
        "attention",
        "where the input enters the cell: added to queries, keys and values, to the state, or to both",
        choices=tuple(INJECTIONS),
        listed=False,
        fixed=ITS_SHAPE,
    )
    inject_norm: bool = flag(
        False,
        "layer norm, with learned scale and bias, over what is added to the state",
        listed=False,
        needs=(Need("--inject residual or both", lambda s: s.inject != "attention"),),
        fixed=ITS_SHAPE,
    )
    feedback: float | None = flag(
        None,
        "what the learned gains begin at, one a channel, by which the state is multiplied where it enters the cell; "
        "small ones make the cell contract (default: no gains)",
        kind=float,
        listed=False,
        fixed=ITS_SHAPE,
    )
    z_init: str = flag(
        "zero",
        "where solves and the shallow stage start: at zero, at the input's injection, or at the states of the segment "
        "before",
        choices=tuple(STARTS),
        listed=False,
        sweeps=True,
    )
    layers_before: int = flag(
        0,
        "ordinary decoder layers between the embedding and the equilibrium, each with a memory of its own",
        least=0,
        listed=False,
        fixed=ITS_SHAPE,
    )
    layers_after: int = flag(
        0, "the same between the equilibrium and the softmax", least=0, listed=False, fixed=ITS_SHAPE
    )
    wnorm: bool = flag(False, "weight normalisation in the cell", fixed=ITS_SHAPE)
    local_size: int = flag(0, "attention horizon; 0 means none", least=0, below=2**31, sweeps=True)


@dataclass(frozen=True)
class DEQTransformerConfig:
    """Shapes, regularisation and reach; field names are those of the flags.

    Attributes:
        n_token: V, size of the vocabulary.
        n_head, d_head, d_model: H, E and D, with H·E = D and D even.
        d_inner: F, width of the feed-forward layer.
        d_embed: width of the first bin's embeddings.
        cutoffs: first word ids of the softmax's further bins; empty for a plain softmax.
        div_val: bin i has embeddings of width d_embed // div_val^i.
        tied: embedding and softmax share their weights.
        dropout, dropatt: rates; `dropatt` is that of the attention weights.
        out_dropout: what the output dropout drops whole: "position" or "channel".
        pre_lnorm, wnorm: layer norm before the sublayers; weight normalisation in the cell.
        outer_norm: layer norm over the output of the cell with `pre_lnorm`.
        norm_affine: the layer norms learn a scale and a bias.
        heads_norm: layer norm over the heads' outputs before their projection.
        cell_layers: N ≥ 1 pairs of sublayers in the cell.
        inject: where the injection enters, a key of INJECTIONS.
        inject_norm: what is added to the state goes through a layer norm.
        feedback: what the gains of the state where it enters the cell begin at; None for a cell without them.
        z_init: where a solve starts, a key of STARTS.
        layers_before, layers_after: decoder layers without injection around the equilibrium.
        mem_len: positions remembered from one segment to the next.
        local_size: attention horizon in positions, 0 for none.
        same_length: every query attends over the same number of keys, `mem_len` of them.

    Raises:
        ValueError: settings that contradict each other.
    """

    n_token: int
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
    out_dropout: str = "position"
    pre_lnorm: bool = False
    outer_norm: bool = False
    norm_affine: bool = False
    heads_norm: bool = False
    cell_layers: int = 1
    inject: str = "attention"
    inject_norm: bool = False
    feedback: float | None = None
    z_init: str = "zero"
    layers_before: int = 0
    layers_after: int = 0
    wnorm: bool = False
    mem_len: int = 0
    local_size: int = 0
    same_length: bool = False

    def __post_init__(self) -> None:
        width = self.n_head * self.d_head
        if width != self.d_model:
            raise ValueError(
                f"`n_head` {self.n_head} times `d_head` {self.d_head} is {width}, not `d_model` {self.d_model}: make "
                "the product equal to `d_model`"
            )
        if self.d_model % 2:
            raise ValueError(f"`d_model` is {self.d_model}: pass an even width, as positions are sines and cosines")
        if self.out_dropout not in OUT_DROPOUTS:
            raise ValueError(f"`out_dropout` is {self.out_dropout!r}: choose one of {', '.join(OUT_DROPOUTS)}")
        if self.outer_norm and not self.pre_lnorm:
            raise ValueError("`outer_norm` has no effect without `pre_lnorm`: add that or leave it out")
        AT_LEAST_ONE.check("cell_layers", self.cell_layers)
        COUNT.check("layers_before", self.layers_before)
        COUNT.check("layers_after", self.layers_after)
        check_choice("inject", self.inject, INJECTIONS)
        if self.inject_norm and self.inject == "attention":
            raise ValueError("`inject_norm` has no effect where `inject` is attention: pass residual or both")
        check_choice("z_init", self.z_init, STARTS)
        if self.z_init == "previous" and self.mem_len == 0:
            raise ValueError("`z_init` previous needs a memory, but `mem_len` is 0: pass a `mem_len` above 0")
        if self.same_length and self.mem_len == 0:
            raise ValueError("`same_length` needs a memory, but `mem_len` is 0: pass a `mem_len` above 0")
        check_bins(self.n_token, self.cutoffs, self.d_embed, self.div_val)

    @property
    def has_feedback(self) -> bool:
        """Whether the cell has feedback gains."""
        return self.feedback is not None

    @property
    def horizon(self) -> int:
        """Keys that a query may attend over, itself included; 0 for all.

        With `same_length` these are `mem_len` ones: the query at the start of a segment sees no more than that.
        """
        limits = [size for size in (self.local_size, self.mem_len if self.same_length else 0) if size > 0]
        return min(limits, default=0)
