"""The weight-tied cell f(z; context) of the DEQ-Transformer: one Transformer-XL decoder layer with input injection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.context import Context, batched
from models.transformers.attention import AttentionContext, Positions, RelativeAttention
from models.transformers.feed_forward import FeedForwardContext, PositionwiseFeedForward
from models.transformers.norm import NormContext, layer_norm, normed
from modules.checks import check_choice

NORM_PLACES = ("post", "pre")
INJECTIONS = {"attention": 3, "residual": 1, "both": 4}  # where u enters -> its channels, in widths of the state


@dataclass(frozen=True)
class CellContext(Context):
    """All that f needs beside z."""

    attention: AttentionContext
    attention_norm: NormContext
    feed_forward: FeedForwardContext
    feed_forward_norm: NormContext
    residual_injection: Tensor | None = batched(0)  # (B, L, D), the part of u that is added to z; None: there is none
    feedback: Tensor | None = None  # (D,), g; None: the cell has none
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

    The injection u enters by its place, one of INJECTIONS:

    "attention":  W_qkv [z_memory; z] + u_qkv, what queries, keys and values come to
    "residual":   [z_memory; z] + u_z in place of [z_memory; z] in all of the above
    "both":       both, u = [u_qkv; u_z]

    A cell with feedback gains g, one a channel and learned, has g ⊙ [z_memory; z] in place of [z_memory; z], before the
    injection is added. A small g makes f contract, so that a few steps solve it and their gradient is as good as exact;
    training raises it where more of the state is worth the steps.

    Args:
        attention, feed_forward: the two sublayers.
        inject: where u enters; None for a cell without injection, an ordinary decoder layer.
        norm: where the layer norms stand, one of NORM_PLACES: after the residual sum or before the sublayer.
        norm_affine: whether they learn a scale and a bias; the published ones do not.
        outer_norm: whether the output of the cell with norm "pre" is normed.
        feedback: what the feedback gains begin at; None for a cell without them.

    Attributes:
        d_injection: channels of the injection.

    Raises:
        ValueError: another place; an outer norm with norm "post", whose output is normed already.

    Source: arXiv 1909.01377, section 4.
    """

    def __init__(
        self,
        attention: RelativeAttention,
        feed_forward: PositionwiseFeedForward,
        *,
        inject: str | None = "attention",
        norm: str = "post",
        norm_affine: bool = False,
        outer_norm: bool = False,
        feedback: float | None = None,
    ):
        super().__init__()
        if norm not in NORM_PLACES:
            raise ValueError(f"`norm` is {norm!r}: choose one of {', '.join(NORM_PLACES)}")
        if outer_norm and norm != "pre":
            raise ValueError(f"`outer_norm` has no effect where `norm` is {norm!r}: pass `norm` 'pre' or leave it out")
        if inject is not None:
            check_choice("inject", inject, INJECTIONS)
        d_model = attention.d_model
        self.dec_attn = attention
        self.pos_ff = feed_forward
        self.attn_norm = layer_norm(d_model, affine=norm_affine)
        self.ff_norm = layer_norm(d_model, affine=norm_affine)
        self.outer_norm = layer_norm(d_model, affine=norm_affine) if outer_norm else None
        self.feedback = None if feedback is None else nn.Parameter(torch.full((d_model,), feedback))
        self.pre_norm = norm == "pre"
        self.inject = inject
        self.d_injection = 0 if inject is None else self.injection_width(d_model, inject)

    @staticmethod
    def injection_width(d_model: int, inject: str = "attention") -> int:
        """Channels of the injection into a cell of this width."""
        return INJECTIONS[inject] * d_model

    def context(self, memory: Tensor, injection: Tensor | None, positions: Positions) -> CellContext:
        """What stays fixed during a solve: weights, the memory's keys and values, positional keys, masks.

        Args:
            memory: the memory's states (B, M, D), M may be 0.
            injection: u over memory and current positions (B, K, d_injection); not looked at where that is 0.
            positions: of the K keys.
        """
        n_memory, d_model = memory.shape[1:]
        to_attention = injection[..., : 3 * d_model] if self.inject in ("attention", "both") else None
        to_residual = injection[..., -d_model:] if self.inject in ("residual", "both") else None
        if self.feedback is not None:
            memory = memory * self.feedback
        if to_residual is not None:
            memory, to_residual = memory + to_residual[:, :n_memory], to_residual[:, n_memory:]
        attention_norm = NormContext.of(self.attn_norm)
        if self.pre_norm:
            memory = normed(memory, attention_norm)
        return CellContext(
            attention=self.dec_attn.context(memory, to_attention, positions),
            attention_norm=attention_norm,
            feed_forward=self.pos_ff.context(memory.shape[0], memory),
            feed_forward_norm=NormContext.of(self.ff_norm),
            outer_norm=None if self.outer_norm is None else NormContext.of(self.outer_norm),
            residual_injection=to_residual,
            feedback=self.feedback,
        )

    def forward(self, z: Tensor, context: CellContext) -> Tensor:
        """f(z): (B, L, D) -> (B, L, D)."""
        z = _entering(z, context)
        attention_norm, feed_forward_norm = context.attention_norm, context.feed_forward_norm
        attended = self.dec_attn(normed(z, attention_norm) if self.pre_norm else z, context.attention)
        y = _residual(z, attended, context.attention.output_mask)
        if not self.pre_norm:
            y = normed(y, attention_norm)
        fed = self.pos_ff(normed(y, feed_forward_norm) if self.pre_norm else y, context.feed_forward)
        out = _residual(y, fed, context.feed_forward.output_mask)
        last_norm = context.outer_norm if self.pre_norm else feed_forward_norm
        return out if last_norm is None else normed(out, last_norm)


def _entering(z: Tensor, context: CellContext) -> Tensor:
    """g ⊙ z + u_z, without what the cell does not have."""
    injection, feedback = context.residual_injection, context.feedback
    if feedback is None:
        return z if injection is None else z + injection
    return z * feedback if injection is None else torch.addcmul(injection, z, feedback)


def _residual(x: Tensor, sublayer: Tensor, mask: Tensor | None) -> Tensor:
    return x + sublayer if mask is None else torch.addcmul(x, sublayer, mask)
