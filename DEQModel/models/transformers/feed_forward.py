"""The position-wise feed-forward network of the cell. Shapes: (B, L, D), inner width F = d_inner."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.context import Context, batched, owner
from models.transformers.packed_feed_forward import DifferentiableFeedForward, PackedFeedForward
from modules.fixed_weights import KeepsWeights, made_once
from modules.optimizations import NormalizableLinear, variational_mask
from modules.packed_linear import Packed, PackedBothWays, PackedLinear, pays_to_pack


@dataclass(frozen=True)
class FeedForwardContext(Context):
    """Weights and dropout masks, fixed during a solve."""

    weight_in: Tensor  # (F, D)
    bias_in: Tensor  # (F,)
    weight_out: Tensor  # (D, F)
    bias_out: Tensor  # (D,)
    inner_mask: Tensor | None = batched(0)  # (B, 1, F)
    output_mask: Tensor | None = batched(0)  # (B, 1, D)
    packed: PackedFeedForward | None = None  # for the evaluations without gradients
    packed_adjoint: DifferentiableFeedForward | None = None  # for those with a gradient to x alone
    owner: KeepsWeights | None = owner()

    def pack(self, n_rows: int) -> FeedForwardContext:
        """The same with the weights packed for n_rows = B·L rows, where that pays."""
        if not pays_to_pack(self.weight_in, n_rows):
            return self
        name = f"packed, {self.weight_in.dtype}"
        packed = made_once(self.owner, name, lambda: PackedFeedForward(*self._maps(PackedLinear, n_rows)))
        return dataclasses.replace(self, packed=packed)

    def adjoint(self, n_rows: int) -> FeedForwardContext | None:
        """The same for products with the transposed Jacobian, where packing pays."""
        if not pays_to_pack(self.weight_in, n_rows):
            return None
        return dataclasses.replace(self, packed_adjoint=DifferentiableFeedForward(*self._maps(PackedBothWays, n_rows)))

    def _maps(self, kind: type[Packed], n_rows: int) -> tuple[Packed, Packed]:
        return kind(self.weight_in, self.bias_in, n_rows), kind(self.weight_out, self.bias_out, n_rows)


class PositionwiseFeedForward(KeepsWeights):
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
            owner=self,
        )

    def forward(self, x: Tensor, context: FeedForwardContext) -> Tensor:
        """x (B, L, D) -> (B, L, D), before dropout and residual."""
        packed = context.packed_adjoint if torch.is_grad_enabled() else context.packed
        if packed is not None:
            return packed(x, context.inner_mask)
        n_batch, n_position, _ = x.shape
        # The relu works in place on what is no view: on a view, autograd would copy the whole of it on backward.
        inner = torch.addmm(context.bias_in, x.flatten(0, 1), context.weight_in.t())
        if context.inner_mask is None:
            inner = F.relu_(inner)
        else:  # a mask is never negative, so it may go before the relu
            inner = F.relu_(inner.unflatten(0, (n_batch, n_position)) * context.inner_mask).flatten(0, 1)
        output = torch.addmm(context.bias_out, inner, context.weight_out.t())
        return output.unflatten(0, (n_batch, n_position))
