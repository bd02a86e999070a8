"""Linear maps that are applied many times with one weight, as in a solve on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_ROWS = 256  # of x, up to which a packed product is the faster one


class PackedLinear:
    """x ↦ x Wᵀ + b with W reordered once for oneDNN's matrix product, which then need not reorder it every time.

    Packing pays where a product reads the weight for few rows: at 75 rows and a weight of 48,000 × 700 a product takes
    a fifth less time, and packing costs about as much as six of them save. At 600 rows and weights of 2048 × 256 plain
    products are faster by 7 to 18 %. No gradient flows. The operators are those that PyTorch's own compiler emits for
    frozen weights.

    Args:
        weight: W (out, in), dense float32 on the CPU.
        bias: b (out,).
        n_rows: rows of x to expect, a hint for the layout.
    """

    def __init__(self, weight: Tensor, bias: Tensor, n_rows: int):
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)
        self.bias = bias.detach()

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """(…, in) -> (…, out), through a relu where asked for."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "relu" if relu else "none", [], "")


def can_pack(weight: Tensor) -> bool:
    """Whether products with this weight can be packed here: float32 on the CPU, oneDNN built in, no autocast."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def pays_to_pack(weight: Tensor, n_rows: int) -> bool:
    """Whether they can be packed, and are then faster at this number of rows."""
    return n_rows <= MOST_ROWS and can_pack(weight)
