"""Sinusoidal embedding of the distance between a query and its keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PositionalEmbedding(nn.Module):
    """r_p = [sin(p ω); cos(p ω)] with ω_i = 10000^(-2i / D), for the distances p = K - 1 … 0 in the order of K keys.

    Args:
        d_model: D, even.

    Raises:
        ValueError: D is odd.

    Source: Dai et al., Transformer-XL, arXiv 1901.02860, section 3.3.
    """

    inv_freq: Tensor  # (D / 2,), a buffer that checkpoints hold

    def __init__(self, d_model: int):
        super().__init__()
        if d_model % 2:
            raise ValueError(f"d_model is {d_model}: sines and cosines need an even width")
        channel = torch.arange(0, d_model, 2, dtype=torch.float64)
        self.register_buffer("inv_freq", (10000 ** (-channel / d_model)).to(torch.get_default_dtype()))

    def forward(self, n_key: int) -> Tensor:
        """(K, D): row j belongs to key j, which is K - 1 - j positions before the last query."""
        distance = torch.arange(n_key - 1, -1, -1, device=self.inv_freq.device, dtype=self.inv_freq.dtype)
        angle = torch.outer(distance, self.inv_freq)
        return torch.cat([angle.sin(), angle.cos()], dim=1)
