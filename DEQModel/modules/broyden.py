"""Broyden's estimate of an inverse Jacobian, kept as the steps that were taken.

Shape legend: B sequences, N entries of one sequence's state, m stored steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.tracker import accumulation_dtype


class History:
    """The last `limit` columns (B, N) of a sequence of them, in one contiguous block (B, m, N).

    The block doubles as it fills; when `limit` columns are there, the oldest one's place is taken. `order` holds the
    places from the oldest column to the newest.
    """

    def __init__(self, like: Tensor, limit: int):
        n_batch, n_state = like.shape
        self.limit = limit
        self.block = like.new_empty(n_batch, min(limit, 8), n_state)
        self.order: list[int] = []

    def append(self, column: Tensor) -> bool:
        """Adds a column (B, N); True when it took the place of the oldest one."""
        full = len(self.order) == self.limit
        if full:
            place = self.order.pop(0)
        else:
            place = len(self.order)
            if place == self.block.shape[1]:
                n_batch, capacity, n_state = self.block.shape
                grown = self.block.new_empty(n_batch, min(2 * capacity, self.limit), n_state)
                grown[:, :capacity] = self.block
                self.block = grown
        self.block[:, place] = column
        self.order.append(place)
        return full

    @property
    def newest(self) -> Tensor:
        """The column (B, N) that was appended last."""
        return self.block[:, self.order[-1]]

    @property
    def is_rotated(self) -> bool:
        """Whether the places are out of order."""
        return self.order[0] > self.order[-1]

    def inner(self, vectors: Tensor) -> Tensor:
        """⟨column_j, vector_r⟩ for (B, r, N): (B, r, m) from the oldest column to the newest, in one pass."""
        block = self.block[:, : len(self.order)]
        products = torch.bmm(vectors, block.transpose(1, 2)).to(accumulation_dtype(vectors))
        return products[:, :, self.order] if self.is_rotated else products

    def combine(self, weights: Tensor) -> Tensor:
        """Σ_j weights_j · column_j with weights (B, m) from the oldest column to the newest: (B, N)."""
        block = self.block[:, : len(self.order)]
        if self.is_rotated:
            placed = torch.empty_like(weights)
            placed[:, self.order] = weights
            weights = placed
        return torch.bmm(weights.to(block.dtype).unsqueeze(1), block).squeeze(1)

    def select(self, rows: Tensor) -> None:
        """Keeps these sequences only."""
        self.block = self.block[rows]


class InverseJacobian:
    """B ≈ (∂g/∂z)⁻¹ for g(z) = f(z) - z, one per sequence, by the "good" Broyden update from B_0 = -I.

    With full steps s_{n+1} = -B_{n+1} g_{n+1} the update is the product

        -B_n = (I + ρ_{n-1} s_n s_{n-1}ᵀ) … (I + ρ_0 s_1 s_0ᵀ),    ρ_j = 1 / ‖s_j‖²

    (C. T. Kelley, Iterative Methods for Linear and Nonlinear Equations, SIAM 1995, chapter 7), so one history of
    steps stands for the two of Σ u vᵀ. Unrolling the product with the inner products of the steps gives, for any x,

        -B_n x = x + Σ_j c_j s_{j+1}, c = T S x,        -B_nᵀ x = x + Σ_j c_j s_j, c = Tᵀ S₊ x,

    with S the steps s_0 … s_{n-1}, S₊ the steps s_1 … s_n and row j of the lower-triangular T (n, n)
    T_j = ρ_j (e_j + Σ_{i<j} ⟨s_j, s_{i+1}⟩ T_i). T is kept explicitly: applying B reads the history twice, without a
    sequential loop. A step of zero length, or an update without a finite scale, leaves the estimate as it is (ρ = 0).

    With a limit of m pairs the oldest factor goes when a new one comes: T loses its first row and column. Memory:
    (m + 1)·N entries a sequence.

    Args:
        like: a state (B, N), for shape, dtype and device.
        limit: largest number of pairs (s_j, s_{j+1}).
    """

    def __init__(self, like: Tensor, limit: int):
        self.limit = limit
        self.steps = History(like, limit + 1)
        self.coefficients = like.new_zeros(like.shape[0], 0, 0, dtype=accumulation_dtype(like))  # T

    def append(self, step: Tensor) -> None:
        """Adds the step s_n (B, N) that is being taken."""
        if self.steps.append(step):
            self.coefficients = self.coefficients[:, 1:, 1:]

    def next_step(self, g: Tensor) -> Tensor:
        """s_{n+1} = -B_{n+1} g (B, N) for the residual g found after the last appended step.

        -B_{n+1} g = d + c_n s_{n+1} with d = -B_n g, and so s_{n+1} = d / (1 - c_n).
        """
        products = self.steps.inner(torch.stack([g, self.steps.newest], dim=1))  # (B, 2, n + 1)
        c = torch.bmm(self._extend(products[:, 1]), products[:, 0, :, None]).squeeze(2)
        d = g + self.steps.combine(torch.nn.functional.pad(c[:, :-1], (1, 0)))
        scale = 1 / (1 - c[:, -1])
        accepted = torch.isfinite(scale)
        self.coefficients[:, -1] = torch.where(accepted[:, None], self.coefficients[:, -1], 0)
        return d * torch.where(accepted, scale, 1).to(g.dtype)[:, None]

    def _extend(self, with_newest: Tensor) -> Tensor:
        """T with the row of the newest step s_n, from its inner products (B, n + 1) with s_0 … s_n."""
        n = self.coefficients.shape[1]
        rho = 1 / with_newest[:, n]
        rho = torch.where(torch.isfinite(rho), rho, 0)
        extended = torch.nn.functional.pad(self.coefficients, (0, 1, 0, 1))
        row = torch.bmm(with_newest[:, None, 1:], self.coefficients).squeeze(1)
        extended[:, n, :n] = rho[:, None] * row
        extended[:, n, n] = rho
        self.coefficients = extended
        return extended

    def transposed(self, x: Tensor) -> Tensor:
        """-Bᵀ x (B, N): an estimate of y = (∂f/∂z)ᵀ y + x. Valid once the last appended step has been evaluated."""
        n = self.coefficients.shape[1]
        if n == 0:
            return x
        with_later = self.steps.inner(x.unsqueeze(1))[:, 0, 1 : n + 1]  # S₊ x
        c = torch.bmm(with_later.unsqueeze(1), self.coefficients[:, : with_later.shape[1]]).squeeze(1)
        return x + self.steps.combine(torch.nn.functional.pad(c, (0, len(self.steps.order) - n)))

    def select(self, rows: Tensor) -> None:
        """Keeps these sequences only."""
        self.steps.select(rows)
        self.coefficients = self.coefficients[rows]
