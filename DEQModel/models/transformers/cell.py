"""The weight-tied cell f(z; context) of the DEQ-Transformer: one Transformer-XL decoder layer with input injection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformers.attention import AttentionContext, RelativeAttention
from models.transformers.feed_forward import FeedForwardContext, PositionwiseFeedForward

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class CellContext:
    """All that f needs beside z: computed once per solve, with gradients where they are enabled."""

    attention: AttentionContext
    feed_forward: FeedForwardContext

    def pack(self, n_rows: int) -> CellContext:
        """The same, prepared for many evaluations without gradients on n_rows = B·L rows."""
        return CellContext(self.attention, self.feed_forward.pack(n_rows))

    def select(self, rows: Tensor) -> CellContext:
        """The context of these sequences (b,) alone."""
        return CellContext(self.attention.select(rows), self.feed_forward.select(rows))


class TransformerCell(nn.Module):
    """Attention and feed-forward sublayers, each with a residual connection and layer norm.

    Post-LN:  y = LN(z + drop(attention(z))),     f(z) = LN(y + drop(ff(y)))
    Pre-LN:   y = z + drop(attention(LN(z))),     f(z) = y + drop(ff(LN(y)))

    The layer norms have no learned parameters. With pre-LN the memory's states are normed like z before they
    become keys and values.

    Args:
        attention, feed_forward: the two sublayers.
        pre_lnorm: norm the input of each sublayer instead of the sum after it.

    Source: arXiv 1909.01377, section 4.
    """

    def __init__(self, attention: RelativeAttention, feed_forward: PositionwiseFeedForward, *, pre_lnorm: bool):
        super().__init__()
        self.dec_attn = attention
        self.pos_ff = feed_forward
        self.pre_lnorm = pre_lnorm

    def context(self, memory: Tensor, injection: Tensor, positions: Tensor) -> CellContext:
        """What stays fixed during a solve: weights, the memory's keys and values, positional keys, masks.

        Args:
            memory: the memory's states (B, M, D), M may be 0.
            injection: u over memory and current positions (B, K, 3D).
            positions: positional embedding (K, D) in the order of the keys.
        """
        if self.pre_lnorm:
            memory = _norm(memory)
        return CellContext(
            attention=self.dec_attn.context(memory, injection, positions),
            feed_forward=self.pos_ff.context(memory.shape[0], memory),
        )

    def forward(self, z: Tensor, context: CellContext) -> Tensor:
        """f(z): (B, L, D) -> (B, L, D)."""
        attended = self.dec_attn(_norm(z) if self.pre_lnorm else z, context.attention)
        y = _residual(z, attended, context.attention.output_mask)
        if not self.pre_lnorm:
            y = _norm(y)
        fed = self.pos_ff(_norm(y) if self.pre_lnorm else y, context.feed_forward)
        out = _residual(y, fed, context.feed_forward.output_mask)
        return out if self.pre_lnorm else _norm(out)


@dataclass(frozen=True)
class CellMap:
    """f as a function of z alone, and the same for some of the sequences."""

    cell: TransformerCell
    context: CellContext

    def __call__(self, z: Tensor) -> Tensor:
        return self.cell(z, self.context)

    def pack(self, z: Tensor) -> CellMap:
        """The same map, prepared for many evaluations without gradients on states like z (B, L, D)."""
        return CellMap(self.cell, self.context.pack(z.shape[0] * z.shape[1]))

    def select(self, rows: Tensor) -> CellMap:
        """The map of these sequences (b,) alone."""
        return CellMap(self.cell, self.context.select(rows))


def _residual(x: Tensor, sublayer: Tensor, mask: Tensor | None) -> Tensor:
    return x + sublayer if mask is None else torch.addcmul(x, sublayer, mask)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
