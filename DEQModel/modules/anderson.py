"""The window of Anderson acceleration and its least-squares weights.

Shape legend: B sequences, N entries of one sequence's state, m columns of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.tracker import accumulation_dtype

RELATIVE_RIDGE = 1e-6  # of each diagonal entry of G Gᵀ: some ten times the rounding in single precision


class AndersonWindow:
    """The last m pairs f(X_k), G_k = f(X_k) - X_k, (B, m, N) each, and the Gram matrix (B, m, m) of the G's.

    Args:
        like: a state (B, N), for shape, dtype and device.
        m: columns, at least 1.
        lam: ridge λ; None for λ_i = 1e-6 (G Gᵀ)_ii, a column's own share.
        beta: mixing β.

    Raises:
        ValueError: m < 1, λ < 0 or β outside (0, 1].
    """

    def __init__(self, like: Tensor, m: int, lam: float | None, beta: float):
        if m < 1:
            raise ValueError(f"m is {m}: the window needs at least 1 column")
        if lam is not None and not lam >= 0:
            raise ValueError(f"lam is {lam}: pass 0 or more, or None for a ridge in proportion to the Gram matrix")
        if not 0 < beta <= 1:
            raise ValueError(f"beta is {beta}: pass a number above 0 and at most 1")
        n_batch, n_state = like.shape
        self.images = like.new_zeros(n_batch, m, n_state)  # F
        self.residuals = like.new_zeros(n_batch, m, n_state)  # G
        self.gram = like.new_zeros(n_batch, m, m, dtype=accumulation_dtype(like))
        self.m, self.lam, self.beta = m, lam, beta
        self.stored = 0

    def store(self, fz: Tensor, g: Tensor) -> None:
        """Adds a pair (B, N), in the oldest one's place when the window is full."""
        slot = self.stored % self.m
        self.stored += 1
        self.images[:, slot] = fz
        self.residuals[:, slot] = g
        row = torch.bmm(g.unsqueeze(1), self.residuals.transpose(1, 2)).squeeze(1).to(self.gram.dtype)
        self.gram[:, slot, :] = row
        self.gram[:, :, slot] = row

    def mix(self) -> Tensor:
        """β αᵀF + (1 - β) αᵀX (B, N), computed as αᵀF - (1 - β) αᵀG."""
        n = min(self.stored, self.m)
        weights = self._weights(self.gram[:, :n, :n]).to(self.images.dtype).unsqueeze(1)
        mixed = torch.bmm(weights, self.images[:, :n])
        if self.beta != 1.0:
            mixed = mixed - (1 - self.beta) * torch.bmm(weights, self.residuals[:, :n])
        return mixed.squeeze(1)

    def _weights(self, gram: Tensor) -> Tensor:
        """α (B, n) from [[0, 1ᵀ], [1, G Gᵀ + λ I]] (ν, α) = (1, 0); the newest column alone where that is singular.

        With a relative ridge, the system is solved for α_i ‖g_i‖ / min ‖g‖: columns of length 1 (or 0) keep it well
        scaled however many orders of magnitude the window spans.
        """
        n_batch, n, _ = gram.shape
        lam, border = self.lam, gram.new_ones(n_batch, n)
        if lam is None:
            lam, lengths = RELATIVE_RIDGE, gram.diagonal(dim1=1, dim2=2).sqrt()
            floor = torch.finfo(gram.dtype).eps * lengths.amax(dim=1, keepdim=True)  # under a column that vanishes
            lengths = torch.where(floor > 0, torch.maximum(lengths, floor), 1)
            gram = gram / (lengths.unsqueeze(1) * lengths.unsqueeze(2))
            border = lengths.amin(dim=1, keepdim=True) / lengths
        system = gram.new_zeros(n_batch, n + 1, n + 1)
        system[:, 0, 1:] = system[:, 1:, 0] = border
        system[:, 1:, 1:] = gram + lam * torch.eye(n, dtype=gram.dtype, device=gram.device)
        target = gram.new_zeros(n_batch, n + 1, 1)
        target[:, 0] = 1
        alpha = border * torch.linalg.solve_ex(system, target).result[:, 1:, 0]
        newest = torch.zeros_like(alpha)
        newest[:, (self.stored - 1) % self.m] = 1
        return torch.where(torch.isfinite(alpha).all(dim=1, keepdim=True), alpha, newest)

    def select(self, rows: Tensor) -> None:
        """Keeps these sequences only."""
        self.images, self.residuals, self.gram = self.images[rows], self.residuals[rows], self.gram[rows]
