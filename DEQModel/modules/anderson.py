"""Anderson acceleration: a window of past iterates and its least-squares weights.

Shape legend: B sequences, N entries of one sequence's state, m columns of the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .checks import AT_LEAST_ONE, SHARE, TOLERANCE
from .iteration import Iteration
from .solver import Solver
from .tracker import accumulation_dtype

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

    counts: ClassVar[str] = "evaluations"

    m: int = 5
    lam: float | None = None
    beta: float = 1.0

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("m", self.m)
        if self.lam is not None:
            TOLERANCE.check("lam", self.lam)
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
        precise = accumulation_dtype(like)
        self.images = like.new_empty(n_batch, self.m, n_state)  # F
        self.residuals = like.new_empty(n_batch, self.m, n_state, dtype=precise)  # G
        self.gram = like.new_zeros(n_batch, self.m, self.m, dtype=torch.float64)
        self.ones = self.gram.new_ones(self.m, 1)
        self.newest = self.gram.new_zeros(self.m, self.m).fill_diagonal_(1)  # row i: all weight on column i
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
        column = self.residuals[:, slot].copy_(g)
        n = min(self.stored, self.m)
        row = torch.bmm(column.unsqueeze(1), self.residuals[:, :n].transpose(1, 2)).squeeze(1)  # (B, n)
        self.gram[:, slot, :n] = row
        self.gram[:, :n, slot] = row

    def _mix(self) -> Tensor:
        """β αᵀF + (1 - β) αᵀX (B, N), computed as αᵀF - (1 - β) αᵀG."""
        n = min(self.stored, self.m)
        alpha = self._weights(n).unsqueeze(1)
        mixed = torch.bmm(alpha.to(self.images.dtype), self.images[:, :n])
        if self.beta != 1.0:
            back = torch.bmm(alpha.to(self.residuals.dtype), self.residuals[:, :n])
            mixed = mixed - ((1 - self.beta) * back).to(mixed.dtype)
        return mixed.squeeze(1)

    def _weights(self, n: int) -> Tensor:
        """α (B, n), which minimises αᵀ K α subject to Σ α = 1, K = G Gᵀ + λ I: α ∝ K⁻¹ 1.

        In double precision, as K⁻¹ is nearly singular where residuals point the same way. The newest column alone
        counts where K is singular.
        """
        gram = self.gram[:, :n, :n].clone()
        diagonal = gram.diagonal(dim1=1, dim2=2)
        if self.lam is None:
            diagonal.mul_(1 + RELATIVE_RIDGE)
        else:
            diagonal.add_(self.lam)
        alpha = torch.linalg.solve_ex(gram, self.ones[:n]).result.squeeze(2)
        total = alpha.sum(dim=1, keepdim=True)
        newest = self.newest[(self.stored - 1) % self.m, :n]
        return torch.where(total.abs() < math.inf, alpha / total, newest)  # isfinite is three operations
