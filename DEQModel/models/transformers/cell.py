"""The weight-tied cell f(z; context) of the DEQ-Transformer: one Transformer-XL decoder layer with input injection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Context
from models.transformers.attention import AttentionContext, Positions, RelativeAttention
from models.transformers.feed_forward import FeedForwardContext, PositionwiseFeedForward

LAYER_NORM_EPS = 1e-5
NORM_PLACES = ("post", "pre")


@dataclass(frozen=True)
class NormContext(Context):
    """The learned parameters of a layer norm, where it has any."""

    weight: Tensor | None  # (D,)
    bias: Tensor | None  # (D,)


@dataclass(frozen=True)
class CellContext(Context):
    """All that f needs beside z."""

    attention: AttentionContext
    attention_norm: NormContext
    feed_forward: FeedForwardContext
    feed_forward_norm: NormContext
    outer_norm: NormContext | None = None  # None: the cell has none


class TransformerCell(nn.Module):
    """Attention and feed-forward sublayers, each with a residual connection and layer norm.

    norm "post":  y = LN(z + drop(attention(z))),     f(z) = LN(y + drop(ff(y)))
    norm "pre":   y = z + drop(attention(LN(z))),     f(z) = y + drop(ff(LN(y)))

    With "pre" the memory's states are normed like z before they become keys and values. The residual f(z) - z then has
    no term that pulls z back, and does not see the mean of z over the channels: D equations a position for D - 1
    unknowns. There is rarely an equilibrium, and the state runs away. An outer norm bounds it:

    norm "pre" and an outer norm:                     f(z) = LN(y + drop(ff(LN(y))))

    This f is continuous and maps a ball into itself, so that it has a fixed point there (Brouwer); that need not
    attract.

    Args:
        attention, feed_forward: the two sublayers.
        norm: where the layer norms stand, one of NORM_PLACES: after the residual sum or before the sublayer.
        norm_affine: whether they learn a scale and a bias; the published ones do not.
        outer_norm: whether the output of the cell with norm "pre" is normed.

    Attributes:
        d_injection: channels of the injection, 3·D: one for each of queries, keys and values.

    Raises:
        ValueError: another place; an outer norm with norm "post", whose output is normed already.

    Source: arXiv 1909.01377, section 4.
    """

    def __init__(
        self,
        attention: RelativeAttention,
        feed_forward: PositionwiseFeedForward,
        *,
        norm: str = "post",
        norm_affine: bool = False,
        outer_norm: bool = False,
    ):
        super().__init__()
        if norm not in NORM_PLACES:
            raise ValueError(f"`norm` is {norm!r}: choose one of {', '.join(NORM_PLACES)}")
        if outer_norm and norm != "pre":
            raise ValueError(f"`outer_norm` has no effect where `norm` is {norm!r}: pass `norm` 'pre' or leave it out")
        d_model = attention.d_model
        self.dec_attn = attention
        self.pos_ff = feed_forward
        self.attn_norm = nn.LayerNorm(d_model, eps=LAYER_NORM_EPS, elementwise_affine=norm_affine)
        self.ff_norm = nn.LayerNorm(d_model, eps=LAYER_NORM_EPS, elementwise_affine=norm_affine)
        self.outer_norm = (
            nn.LayerNorm(d_model, eps=LAYER_NORM_EPS, elementwise_affine=norm_affine) if outer_norm else None
        )
        self.pre_norm = norm == "pre"
        self.d_injection = self.injection_width(d_model)

    @staticmethod
    def injection_width(d_model: int) -> int:
        """Channels of the injection into a cell of this width."""
        return 3 * d_model

    def context(self, memory: Tensor, injection: Tensor, positions: Positions) -> CellContext:
        """What stays fixed during a solve: weights, the memory's keys and values, positional keys, masks.

        Args:
            memory: the memory's states (B, M, D), M may be 0.
            injection: u over memory and current positions (B, K, 3D).
            positions: of the K keys.
        """
        attention_norm = _norm_context(self.attn_norm)
        if self.pre_norm:
            memory = _norm(memory, attention_norm)
        return CellContext(
            attention=self.dec_attn.context(memory, injection, positions),
            attention_norm=attention_norm,
            feed_forward=self.pos_ff.context(memory.shape[0], memory),
            feed_forward_norm=_norm_context(self.ff_norm),
            outer_norm=None if self.outer_norm is None else _norm_context(self.outer_norm),
        )

    def forward(self, z: Tensor, context: CellContext) -> Tensor:
        """f(z): (B, L, D) -> (B, L, D)."""
        attention_norm, feed_forward_norm = context.attention_norm, context.feed_forward_norm
        attended = self.dec_attn(_norm(z, attention_norm) if self.pre_norm else z, context.attention)
        y = _residual(z, attended, context.attention.output_mask)
        if not self.pre_norm:
            y = _norm(y, attention_norm)
        fed = self.pos_ff(_norm(y, feed_forward_norm) if self.pre_norm else y, context.feed_forward)
        out = _residual(y, fed, context.feed_forward.output_mask)
        last_norm = context.outer_norm if self.pre_norm else feed_forward_norm
        return out if last_norm is None else _norm(out, last_norm)


def _norm_context(norm: nn.LayerNorm) -> NormContext:
    return NormContext(norm.weight, norm.bias)


def _residual(x: Tensor, sublayer: Tensor, mask: Tensor | None) -> Tensor:
    return x + sublayer if mask is None else torch.addcmul(x, sublayer, mask)


def _norm(x: Tensor, norm: NormContext) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, LAYER_NORM_EPS)
