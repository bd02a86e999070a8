"""Variational dropout and weight normalisation for weight-tied maps: masks and matrices that are to be made once per
solve and handed to the map, not drawn or normalised again inside the solver's loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fixed_weights import KeepsWeights


def variational_mask(shape: tuple[int, ...], p: float, like: Tensor, *, training: bool) -> Tensor | None:
    """A dropout mask with entries 0 (probability p) or 1 / (1 - p), or None where nothing is dropped.

    The caller chooses what shares an entry by giving that dimension size 1; a mask for (B, L, D) that is the same at
    all positions has shape (B, 1, D). Dtype and device are those of `like`.

    Source: Gal and Ghahramani, arXiv 1512.05287.
    """
    if not training or p == 0:
        return None
    return like.new_empty(shape).bernoulli_(1 - p).div_(1 - p)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x · mask, or x itself where there is no mask."""
    return x if mask is None else x * mask


class NormalizableLinear(KeepsWeights):
    """A linear map whose weight may be normalised: W = v · g / ‖v‖, one norm per output row.

    The weight is asked for once per solve with `matrix()` and then applied with plain matrix products. Parameters are
    `weight`, or with weight normalisation `weight_g` and `weight_v`, and `bias`. PyTorch's default
    initialisation of a linear layer; g starts as ‖v‖.

    Args:
        in_features, out_features: widths.
        bias: whether there is a bias (out_features).
        wnorm: whether the weight is normalised.
        kernel_dims: trailing dimensions of size 1 in the stored weight, 1 for layers that checkpoints hold as
            convolutions of kernel size 1.

    Source: Salimans and Kingma, Weight Normalization, arXiv 1602.07868.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, wnorm: bool, kernel_dims: int = 0):
        super().__init__()
        self.wnorm = wnorm
        default = nn.Linear(in_features, out_features, bias=bias)
        ones = (1,) * kernel_dims
        weight = default.weight.detach().view(out_features, in_features, *ones)
        if wnorm:
            self.weight_g = nn.Parameter(weight.flatten(1).norm(dim=1).view(out_features, 1, *ones))
            self.weight_v = nn.Parameter(weight)
        else:
            self.weight = nn.Parameter(weight)
        self.bias = default.bias

    def matrix(self) -> Tensor:
        """The weight (out_features, in_features) that is in effect."""
        return self.once("matrix", self._normalised) if self.wnorm else self.weight.flatten(1)

    def _normalised(self) -> Tensor:
        # The kernel behind torch.nn.utils.parametrizations.weight_norm: a third of the composed operations' time.
        return torch._weight_norm(self.weight_v.flatten(1), self.weight_g.flatten(1), 0)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features), with the weight normalised for this one call."""
        return F.linear(x, self.matrix(), self.bias)
