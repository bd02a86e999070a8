"""The position-wise feed-forward network of the cell. Shapes: (B, L, D), inner width F = d_inner."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from modules.optimizations import NormalizableLinear, variational_mask


@dataclass(frozen=True)
class FeedForwardContext:
    """Weights and dropout masks, fixed during a solve."""

    weight_in: Tensor  # (F, D)
    bias_in: Tensor  # (F,)
    weight_out: Tensor  # (D, F)
    bias_out: Tensor  # (D,)
    inner_mask: Tensor | None  # (B, 1, F)
    output_mask: Tensor | None  # (B, 1, D)

    def select(self, rows: Tensor) -> FeedForwardContext:
        """The context of these sequences (b,) alone."""
        return dataclasses.replace(
            self,
            inner_mask=None if self.inner_mask is None else self.inner_mask[rows],
            output_mask=None if self.output_mask is None else self.output_mask[rows],
        )


class PositionwiseFeedForward(nn.Module):
    """W_2 drop(relu(W_1 x + b_1)) + b_2.

    Args:
        d_model, d_inner: D and F.
        dropout: rate, one mask per sequence and channel.
        wnorm: weight normalisation of both linear maps.
    """

    def __init__(self, d_model: int, d_inner: int, *, dropout: float, wnorm: bool):
        super().__init__()
        self.dropout = dropout
        self.ff1_net = NormalizableLinear(d_model, d_inner, bias=True, wnorm=wnorm)
        self.ff2_net = NormalizableLinear(d_inner, d_model, bias=True, wnorm=wnorm)

    def context(self, n_batch: int, like: Tensor) -> FeedForwardContext:
        """What stays fixed while z is solved for; masks take dtype and device of `like`."""
        weight_in, weight_out = self.ff1_net.matrix(), self.ff2_net.matrix()
        d_inner, d_model = weight_in.shape
        return FeedForwardContext(
            weight_in=weight_in,
            bias_in=self.ff1_net.bias,
            weight_out=weight_out,
            bias_out=self.ff2_net.bias,
            inner_mask=variational_mask((n_batch, 1, d_inner), self.dropout, like, training=self.training),
            output_mask=variational_mask((n_batch, 1, d_model), self.dropout, like, training=self.training),
        )

    def forward(self, x: Tensor, context: FeedForwardContext) -> Tensor:
        """x (B, L, D) -> (B, L, D), before dropout and residual."""
        inner = F.linear(x, context.weight_in, context.bias_in)
        # A mask is never negative, so it may go before the relu, which then works in place.
        inner = F.relu(inner) if context.inner_mask is None else F.relu_(inner * context.inner_mask)
        return F.linear(inner, context.weight_out, context.bias_out)
