"""Broyden's method: its estimate of an inverse Jacobian is kept as the steps that were taken.

Shape legend: B sequences, N entries of one sequence's state, m stored steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import AT_LEAST_ONE
from .iteration import Iteration
from .solver import Solver
from .tracker import accumulation_dtype

FIRST_BLOCK = 8  # columns of the first block of a history
SMALL_HISTORY = 2**16  # bytes of a history that is one block from the start


@dataclass(frozen=True)
class Broyden(Solver):
    """Broyden's "good" method on g(z) = f(z) - z, with full steps and an inverse update from B_0 = -I.

    z_{n+1} = z_n - B_n g_n; inner products run over each sequence's own entries, so the estimates B are one per
    sequence. The result's `jacobian` is the last of them.

    The threshold is the largest number of updates: f is evaluated at most threshold + 1 times.

    Args:
        history: largest number of pairs of successive steps that B is remembered by, the newest ones; None for all.
            Memory: as many states and two more.

    Raises:
        ValueError: a history below 1.

    Source: C. G. Broyden, Math. Comp. 19 (1965); for equilibrium models arXiv 1909.01377, section 3.
    """

    history: int | None = None

    def __post_init__(self) -> None:
        if self.history is not None:
            AT_LEAST_ONE.check("history", self.history)

    def start(self, z0: Tensor, threshold: int) -> BroydenIteration:
        return BroydenIteration(z0, max(1, min(threshold, self.history or threshold)))


class BroydenIteration(Iteration):
    """z ← z - B g with Broyden's estimate B of the inverse Jacobian of g, made of at most `limit` pairs of steps."""

    def __init__(self, like: Tensor, limit: int):
        self.jacobian = InverseJacobian(like, limit)
        self.step: Tensor | None = None  # s_n, the step that led to the newest iterate

    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        if self.step is None:
            self.step = g  # B_0 = -I
            return fz
        self.jacobian.append(self.step)
        self.step = self.jacobian.next_step(g)
        return z + self.step

    def select(self, rows: Tensor) -> None:
        self.jacobian.select(rows)
        self.step = self.step[rows]

    def finish(self) -> InverseJacobian:
        """The estimate with the last step taken in."""
        if self.step is not None:
            self.jacobian.append(self.step)
        return self.jacobian


class History:
    """The last `limit` columns (B, N) of a sequence of them, in contiguous blocks (B, m, N).

    Each new block is as large as all before it, and none is ever copied; when `limit` columns are there, the oldest
    one's place is taken.
    """

    def __init__(self, like: Tensor, limit: int):
        self.limit = limit
        self.precise = accumulation_dtype(like)  # of what sums come to
        whole = limit * like.numel() * like.element_size() <= SMALL_HISTORY
        self.blocks = [self._block(like, limit if whole else min(limit, FIRST_BLOCK))]
        self.appended = 0  # columns so far, forgotten ones included

    @staticmethod
    def _block(column: Tensor, size: int) -> Tensor:
        n_batch, n_state = column.shape
        return column.new_empty(n_batch, size, n_state)

    def __len__(self) -> int:
        return min(self.appended, self.limit)

    @property
    def capacity(self) -> int:
        """Columns that there is room for."""
        return sum(block.shape[1] for block in self.blocks)

    @property
    def oldest(self) -> int:
        """The place of the oldest column."""
        return self.appended % self.limit if self.appended > self.limit else 0

    @property
    def newest(self) -> Tensor:
        """The column (B, N) that was appended last."""
        return self._at((self.appended - 1) % self.limit)

    def _at(self, place: int) -> Tensor:
        for block in self.blocks:
            if place < block.shape[1]:
                break
            place -= block.shape[1]
        return block.select(1, place)

    def _filled(self) -> list[Tensor]:
        """The blocks without the places that are still empty, which the last one alone may have."""
        *full, last = self.blocks
        if not full:
            return [last[:, : len(self)]]
        return [*full, last.narrow(1, 0, len(self) - sum(block.shape[1] for block in full))]

    def append(self, column: Tensor) -> bool:
        """Adds a column (B, N); True when it took the place of the oldest one."""
        place = self.appended % self.limit
        if place == self.capacity:
            self.blocks.append(self._block(column, min(self.capacity, self.limit - self.capacity)))
        self._at(place).copy_(column)
        self.appended += 1
        return self.appended > self.limit

    def inner(self, vectors: Tensor) -> Tensor:
        """⟨column_j, vector_r⟩ for (B, r, N): (B, r, m) from the oldest column to the newest, in one pass."""
        products = [_inner(vectors, block) for block in self._filled()]
        together = products[0] if len(products) == 1 else torch.cat(products, dim=2)
        in_order = together.roll(-self.oldest, dims=2) if self.oldest else together
        return in_order if in_order.dtype == self.precise else in_order.to(self.precise)

    def combine(self, weights: Tensor) -> Tensor:
        """Σ_j weights_j · column_j with weights (B, m) from the oldest column to the newest: (B, N)."""
        blocks = self._filled()
        placed = (weights.roll(self.oldest, dims=1) if self.oldest else weights).unsqueeze(1)
        if placed.dtype != blocks[0].dtype:
            placed = placed.to(blocks[0].dtype)
        if len(blocks) == 1:
            return torch.bmm(placed, blocks[0]).squeeze(1)
        first, *others = placed.split([block.shape[1] for block in blocks], dim=2)
        total = torch.bmm(first, blocks[0])
        for part, block in zip(others, blocks[1:], strict=True):
            total = torch.baddbmm(total, part, block)
        return total.squeeze(1)

    def select(self, rows: Tensor) -> None:
        """Keeps these sequences only."""
        self.blocks = [block[rows] for block in self.blocks]


def _inner(vectors: Tensor, block: Tensor) -> Tensor:
    """⟨column_j, vector_r⟩, (B, r, m)."""
    if block.shape[1] == 1:  # of one column, a CPU's matrix product rounds otherwise for one sequence than for several
        return (vectors * block).sum(dim=2, keepdim=True)
    return torch.bmm(vectors, block.transpose(1, 2))


class InverseJacobian:
    """B ≈ (∂g/∂z)⁻¹ for g(z) = f(z) - z, one per sequence, by the "good" Broyden update from B_0 = -I.

    With full steps s_{n+1} = -B_{n+1} g_{n+1} the update is the product

        -B_n = (I + ρ_{n-1} s_n s_{n-1}ᵀ) … (I + ρ_0 s_1 s_0ᵀ),    ρ_j = 1 / ‖s_j‖²

    (C. T. Kelley, Iterative Methods for Linear and Nonlinear Equations, SIAM 1995, chapter 7), so one history of
    steps stands for the two of Σ u vᵀ. Unrolling the product with the inner products of the steps gives, for any x,

        -B_n x = x + Σ_j c_j s_{j+1}, c = T S x,        -B_nᵀ x = x + Σ_j c_j s_j, c = Tᵀ S₊ x,

    with S the steps s_0 … s_{n-1}, S₊ the steps s_1 … s_n and row j of the lower-triangular T (n, n)
    T_j = ρ_j (e_j + Σ_{i<j} ⟨s_j, s_{i+1}⟩ T_i). T is kept explicitly: applying B reads the history twice, without a
    sequential loop; products with it are sums over elements, which unlike matrix products round the same at any batch
    size. A step of zero length, or an update without a finite scale, leaves the estimate as it is (ρ = 0).

    With a limit of m pairs the oldest factor goes when a new one comes: T loses its first row and column. What is left
    no longer meets the secant equation exactly, as it stood on the factor that went, but it needs half the memory of
    pairs (u, v), which with as much memory converge no faster. Memory: (m + 1)·N entries a sequence.

    Args:
        like: a state (B, N), for shape, dtype and device.
        limit: largest number of pairs (s_j, s_{j+1}).
    """

    def __init__(self, like: Tensor, limit: int):
        self.steps = History(like, limit + 1)
        self.room = self._room(like, min(limit, FIRST_BLOCK))  # for T, which fills its upper left corner
        self.n = 0  # rows of T

    @staticmethod
    def _room(like: Tensor, size: int) -> Tensor:
        return like.new_zeros(len(like), size, size, dtype=accumulation_dtype(like))

    @property
    def coefficients(self) -> Tensor:
        """T (B, n, n)."""
        return self.room[:, : self.n, : self.n]

    def append(self, step: Tensor) -> None:
        """Adds the step s_n (B, N) that is being taken."""
        if self.steps.append(step):
            kept = self.coefficients[:, 1:, 1:].clone()
            self.n -= 1
            self.coefficients.copy_(kept)
            self.room[:, : self.n, self.n] = 0  # rows below the new corner are written whole

    def next_step(self, g: Tensor) -> Tensor:
        """s_{n+1} = -B_{n+1} g (B, N) for the residual g found after the last appended step.

        -B_{n+1} g = d + c_n s_{n+1} with d = -B_n g, and so s_{n+1} = d / (1 - c_n).
        """
        products = self.steps.inner(torch.stack((g, self.steps.newest), dim=1))  # (B, 2, n + 1)
        with_g, with_newest = products.split(1, dim=1)
        newest_row = self._extend(with_newest)
        c = (self.coefficients * with_g).sum(dim=2)  # (B, n + 1)
        scale = c[:, -1:].neg().add_(1).reciprocal_()
        refused = ~(scale.abs() < math.inf)  # isfinite is three operations
        newest_row.masked_fill_(refused, 0)
        scale.masked_fill_(refused, 1)
        d = g + self.steps.combine(torch.nn.functional.pad(c[:, :-1], (1, 0)))
        return d * (scale if scale.dtype == g.dtype else scale.to(g.dtype))

    def _extend(self, with_newest: Tensor) -> Tensor:
        """Gives T the row of the newest step s_n, from its inner products (B, 1, n + 1) with s_0 … s_n; that row."""
        n, before = self.n, self.coefficients
        if n == self.room.shape[1]:
            self.room = torch.nn.functional.pad(self.room, (0, n, 0, n))
        self.n += 1
        rho = with_newest[:, 0, n:].reciprocal().nan_to_num_(0, 0, 0)
        row = self.room[:, n, : n + 1]
        row[:, n:] = rho
        if n:
            torch.mul(rho, (with_newest[:, 0, 1:, None] * before).sum(dim=1), out=row[:, :n])
        return row

    def transposed(self, x: Tensor) -> Tensor:
        """-Bᵀ x (B, N): an estimate of y = (∂f/∂z)ᵀ y + x. The newest step must have been appended."""
        if self.n == 0:
            return x
        with_later = self.steps.inner(x.unsqueeze(1))[:, :, 1:]  # S₊ x
        c = (with_later.transpose(1, 2) * self.coefficients).sum(dim=1)
        return x + self.steps.combine(torch.nn.functional.pad(c, (0, 1)))

    def select(self, rows: Tensor) -> None:
        """Keeps these sequences only."""
        self.steps.select(rows)
        self.room = self.room[rows]
