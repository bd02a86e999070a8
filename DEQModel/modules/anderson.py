"""Anderson acceleration: a window of past iterates and its least-squares weights.

Shape legend: B sequences, N entries of one sequence's state, m columns of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.checks import SHARE
from modules.solver import Iteration, Solver
from modules.tracker import accumulation_dtype

RELATIVE_RIDGE = 1e-6  # of each diagonal entry of G Gᵀ: some ten times the rounding in single precision


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration (type II) with a window of m iterates.

    X_k = β αᵀF + (1 - β) αᵀX, where α minimises ‖αᵀG‖² + λ‖α‖² subject to Σα = 1, over the last min(k, m) columns of
    G = F - X, one α per sequence. The first two iterates are X_0 = z0 and X_1 = f(z0). What comes back is the X (not F)
    of lowest residual among k ≥ 2; with a threshold of 1 or 2, the last one evaluated.

    The threshold is the largest number of evaluations of f. Memory: 2 m states.

    Args:
        m: window, at least 1.
        lam: ridge λ, 1e-4 being the published one, which stalls once the residuals are small against its root; None
            for λ_i = 1e-6 (G Gᵀ)_ii, a column's own share, with which the iterates do not depend on the problem's
            scale.
        beta: mixing β in (0, 1].

    Raises:
        ValueError: m < 1, λ < 0 or β outside (0, 1].

    Source: D. G. Anderson, J. ACM 12 (1965); Walker and Ni, SIAM J. Numer. Anal. 49 (2011).
    """

    m: int = 5
    lam: float | None = None
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.m >= 1:
            raise ValueError(f"`m` is {self.m}: the window needs at least 1 column")
        if self.lam is not None and not self.lam >= 0:
            raise ValueError(
                f"`lam` is {self.lam}: pass 0 or more, or leave it out for a ridge in proportion to the Gram matrix"
            )
        SHARE.check("beta", self.beta)

    def start(self, z0: Tensor, threshold: int) -> AndersonIteration:
        return AndersonIteration(z0, self)

    def max_evals(self, threshold: int) -> int:
        return threshold

    def first_candidate(self, threshold: int) -> int:
        return max(0, min(2, threshold - 1))


class AndersonIteration(Iteration):
    """The last m pairs f(X_k), G_k = f(X_k) - X_k, (B, m, N) each, and the Gram matrix (B, m, m) of the G's.

    Args:
        like: a state (B, N), for shape, dtype and device.
        options: m, λ and β.
    """

    def __init__(self, like: Tensor, options: Anderson):
        n_batch, n_state = like.shape
        self.m, self.lam, self.beta = options.m, options.lam, options.beta
        self.images = like.new_zeros(n_batch, self.m, n_state)  # F
        self.residuals = like.new_zeros(n_batch, self.m, n_state)  # G
        self.gram = like.new_zeros(n_batch, self.m, self.m, dtype=accumulation_dtype(like))
        self.stored = 0

    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        self._store(fz, g)
        return self._mix() if self.stored > 1 else fz

    def select(self, rows: Tensor) -> None:
        self.images, self.residuals, self.gram = self.images[rows], self.residuals[rows], self.gram[rows]

    def _store(self, fz: Tensor, g: Tensor) -> None:
        """Adds a pair (B, N), in the oldest one's place when the window is full."""
        slot = self.stored % self.m
        self.stored += 1
        self.images[:, slot] = fz
        self.residuals[:, slot] = g
        row = torch.bmm(g.unsqueeze(1), self.residuals.transpose(1, 2)).squeeze(1).to(self.gram.dtype)
        self.gram[:, slot, :] = row
        self.gram[:, :, slot] = row

    def _mix(self) -> Tensor:
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
