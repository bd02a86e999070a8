"""Layer norms, whose parameters, where they learn any, are part of a cell's context."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models.context import Context

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class NormContext(Context):
    """The learned parameters of a layer norm, where it has any."""

    weight: Tensor | None  # (D,)
    bias: Tensor | None  # (D,)

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> NormContext:
        """Those of a layer."""
        return cls(norm.weight, norm.bias)


def layer_norm(width: int, *, affine: bool) -> nn.LayerNorm:
    """A layer norm over `width` channels; `affine` says whether it learns a scale and a bias."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS, elementwise_affine=affine)


def normed(x: Tensor, norm: NormContext) -> Tensor:
    """x (…, D) with mean 0 and variance 1 over its channels, scaled and shifted."""
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, LAYER_NORM_EPS)
