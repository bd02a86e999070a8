"""Powers of two that bring the rows of a state into the range in which their products are normal numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def norm_range(dtype: torch.dtype) -> tuple[float, float]:
    """Norms that need no scaling: from where their fourth powers, which solvers come to, are normal numbers of the
    dtype, to where their squares are well below the largest number; in half precision, of which sums are taken in
    single precision, to where they are themselves."""
    numbers = torch.finfo(dtype)
    return numbers.tiny**0.25, numbers.max / 4 if dtype == torch.float16 else numbers.max**0.5 / 128


class RowScale:
    """σ (b,), by which the rows of a solve's states are multiplied; nothing at all as long as all norms are in range.

    Args:
        dtype: of the states.
    """

    def __init__(self, dtype: torch.dtype):
        self.low, self.high = norm_range(dtype)
        self.host: np.ndarray | None = None  # σ
        self.device: Tensor | None = None  # σ (b, 1)
        self.newest: Tensor | None = None  # what σ was changed by last, (b, 1)

    def doubts(self, norms: np.ndarray) -> bool:
        """Whether norms (2, b) of g and f(z) may have lost digits, or their products may."""
        images = norms[1]
        return bool(images.size) and not (images.min() >= self.low and images.max() < self.high)

    def adapt(self, z: Tensor, fz: Tensor) -> bool:
        """Changes σ for the rows of z and f(z) (b, N) that need it; whether there were any."""
        largest = torch.maximum(z.abs(), fz.abs()).double().amax(dim=1).cpu().numpy() if z.numel() else np.zeros(len(z))
        needed = np.isfinite(largest) & (largest > 0) & ((largest < self.low) | (largest >= self.high))
        if not needed.any():
            return False
        factor = np.where(needed, np.exp2(-np.floor(np.log2(np.where(needed, largest, 1)))), 1)
        self.newest = torch.from_numpy(factor[:, None]).to(z)
        self.host = factor if self.host is None else self.host * factor
        self.device = torch.from_numpy(self.host[:, None]).to(z)
        return True

    def done(self, x: Tensor) -> Tensor:
        """σ x."""
        return x if self.device is None else x * self.device

    def undone(self, x: Tensor) -> Tensor:
        """x / σ."""
        return x if self.device is None else x / self.device

    def norms_undone(self, norms: np.ndarray) -> np.ndarray:
        """Norms (2, b) of states that are not scaled."""
        return norms if self.host is None else norms / self.host

    def select(self, rows: Tensor, is_open: np.ndarray) -> None:
        """Goes on with these rows alone, given as indices and as a mask."""
        if self.host is not None:
            self.host, self.device = self.host[is_open], self.device[rows]
