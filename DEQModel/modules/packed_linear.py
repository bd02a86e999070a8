"""Linear maps that are applied many times with one weight, as in a solve on the CPU."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_ROWS = 256  # of x, up to which a packed product is the faster one on every processor that was tried


class PackedLinear:
    """x ↦ x Wᵀ + b with W reordered once for oneDNN's matrix product, which then need not reorder it every time.

    Packing pays where a product reads the weight for few rows: at 75 rows and a weight of 48,000 × 700 a product takes
    two thirds to four fifths of the time, and packing costs about as much as two to six of them save. At 600 rows and
    weights of 2048 × 256 it depends on the processor: plain products are faster by 7 to 18 % on one without bfloat16
    instructions, packed ones by 14 to 18 % (two threads: 23 to 30 %) on one with them. No gradient flows. The operators
    are those that PyTorch's own compiler emits for frozen weights.

    Args:
        weight: W (out, in), dense float32 on the CPU, in any layout.
        bias: b (out,), None for 0.
        n_rows: rows of x to expect, a hint for the layout.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, n_rows: int):
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)
        self.bias = None if bias is None else bias.detach()

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """(…, in) -> (…, out), through a relu where asked for."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "relu" if relu else "none", [], "")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x Wᵀ + b + other: (…, in), (…, out) -> (…, out)."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")


class PackedBothWays:
    """The same map, from whose values a gradient flows to x, and to nothing else. It holds the weight twice.

    Args:
        weight, bias, n_rows: as of `PackedLinear`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, n_rows: int):
        self.map = PackedLinear(weight, bias, n_rows)
        self.transposed = PackedLinear(weight.t(), None, n_rows)

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return _BothWays.apply(x, None, self)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x Wᵀ + b + other: (…, in), (…, out) -> (…, out)."""
        return _BothWays.apply(x, other, self)


Packed = TypeVar("Packed", PackedLinear, PackedBothWays)


class _BothWays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, maps: PackedBothWays) -> Tensor:
        ctx.transposed = maps.transposed
        return maps.map(x) if other is None else maps.map.plus(x, other)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed(y), None, None


def can_pack(weight: Tensor) -> bool:
    """Whether products with this weight can be packed here: on the CPU, oneDNN built in, no autocast.

    In float32, and in bfloat16 where the processor has instructions for it.
    """
    return (
        weight.device.type == "cpu"
        and (
            weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())
        )
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def pays_to_pack(weight: Tensor, n_rows: int) -> bool:
    """Whether they can be packed, and are then faster at this number of rows."""
    return can_pack(weight) and (n_rows <= MOST_ROWS or torch.cpu._is_avx512_bf16_supported())
