"""The feed-forward network with its weights packed, for the many evaluations of a solve."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modules.packed_linear import PackedBothWays, PackedLinear


class PackedFeedForward(NamedTuple):
    """W_2 (mask ⊙ relu(W_1 x + b_1)) + b_2, without gradients."""

    map_in: PackedLinear  # (…, D) -> (…, F)
    map_out: PackedLinear  # (…, F) -> (…, D)

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D); the mask is (B, 1, F)."""
        return self.map_out(_inner(self.map_in, x, mask))


class DifferentiableFeedForward(NamedTuple):
    """The same with a gradient to x alone: y ↦ W_1ᵀ (factor ⊙ W_2ᵀ y), factor = mask where the relu lets through."""

    map_in: PackedBothWays
    map_out: PackedBothWays

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D); the mask is (B, 1, F)."""
        return _Differentiable.apply(x, mask, self)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, maps: DifferentiableFeedForward) -> Tensor:
        inner = _inner(maps.map_in.map, x, mask)
        passed = (inner > 0).to(x.dtype)
        ctx.maps, ctx.factor = maps, passed if mask is None else passed.mul_(mask)
        return maps.map_out.map(inner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y: Tensor) -> tuple[Tensor, None, None]:
        through_relu = ctx.maps.map_out.transposed(y).mul_(ctx.factor)
        return ctx.maps.map_in.transposed(through_relu), None, None


def _inner(map_in: PackedLinear, x: Tensor, mask: Tensor | None) -> Tensor:
    inner = map_in(x, relu=True)
    return inner if mask is None else inner.mul_(mask)
