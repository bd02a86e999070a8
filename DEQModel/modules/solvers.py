"""Fixed-point solvers: find z with z = f(z), where f maps (B, *) to the same shape.

Shape legend: B sequences in the batch, N entries of one sequence's state (all dimensions but the first, flattened),
m stored columns of a history. Residual g(z) = f(z) - z.

Every solver takes full steps, keeps the iterate of lowest residual, and returns a `SolverResult`: the value, why the
solver stopped, and one residual per evaluation of f. `modules.tracker.Tracker` owns the norms, the traces, the best
iterate and the stop rule, so that a solver's body reads as the textbook iteration. The solvers run in whatever grad
mode they are called in; `modules.deq.DEQModule` calls them without gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modules.tracker import SolverResult, Tracker, accumulation_dtype

FixedPointFn = Callable[[Tensor], Tensor]  # z (B, *) -> f(z), same shape


class History:
    """Columns (B, m, N) in one contiguous block that doubles as it fills, up to `limit` columns."""

    def __init__(self, like: Tensor, limit: int):
        n_batch, n_state = like.shape
        self.limit = limit
        self.block = like.new_empty(n_batch, min(limit, 8), n_state)
        self.size = 0

    def append(self, column: Tensor) -> None:
        """Adds a column (B, N)."""
        if self.size == self.block.shape[1]:
            n_batch, capacity, n_state = self.block.shape
            grown = self.block.new_empty(n_batch, min(2 * capacity, self.limit), n_state)
            grown[:, :capacity] = self.block
            self.block = grown
        self.block[:, self.size] = column
        self.size += 1

    @property
    def columns(self) -> Tensor:
        """(B, m, N): what has been appended so far, a view."""
        return self.block[:, : self.size]


def _check_threshold(threshold: int) -> None:
    if threshold < 0:
        raise ValueError(f"threshold is {threshold}: pass 0 or more")


def _inner(block: Tensor, rows: Tensor) -> Tensor:
    """Inner products of rows (B, r, N) with a block's columns (B, m, N): (B, r, m), in one pass over the block."""
    return torch.bmm(rows, block.transpose(1, 2)).to(accumulation_dtype(rows))


def _combine(weights: Tensor, block: Tensor) -> Tensor:
    """Σ_j weights_j · column_j: (B, m) with (B, m, N) -> (B, N)."""
    return torch.bmm(weights.to(block.dtype).unsqueeze(1), block).squeeze(1)


class InverseJacobian:
    """Broyden's estimate B of the inverse Jacobian of g, from the steps alone.

    With full steps s_{n+1} = -B_{n+1} g_{n+1}, the "good" Broyden update from B_0 = -I is the product

        -B_n = (I + ρ_{n-1} s_n s_{n-1}ᵀ) … (I + ρ_0 s_1 s_0ᵀ),    ρ_j = 1 / ‖s_j‖²

    (C. T. Kelley, Iterative Methods for Linear and Nonlinear Equations, SIAM 1995, chapter 7), so one history of
    steps stands for the two of Σ u vᵀ. Unrolling the product with the Gram matrix of the steps gives, for any g,
    -B_n g = g + Σ_j c_j s_{j+1} with c = T S g, where row n of the lower-triangular T (m, m) is

        T_n = ρ_n (e_n + Σ_{i<n} ⟨s_n, s_{i+1}⟩ T_i).

    T is kept explicitly: a step reads the history twice, without a sequential loop. A step of zero length or an update
    without a finite scale leaves the estimate as it is (ρ = 0).
    """

    def __init__(self, like: Tensor, max_steps: int):
        self.steps = History(like, max_steps)
        self.coefficients = like.new_zeros(like.shape[0], max_steps, max_steps, dtype=accumulation_dtype(like))  # T

    def append(self, step: Tensor) -> None:
        """Adds a step s_n (B, N) that has been taken."""
        self.steps.append(step)

    def next_step(self, g: Tensor) -> Tensor:
        """s_{n+1} = -B_{n+1} g (B, N) for the residual g found after the last appended step.

        -B_{n+1} g = d + c_n s_{n+1} with d = -B_n g, and so s_{n+1} = d / (1 - c_n).
        """
        steps, n = self.steps.columns, self.steps.size - 1
        products = _inner(steps, torch.stack([g, steps[:, n]], dim=1))  # (B, 2, n + 1)
        with_g, with_last = products[:, 0], products[:, 1]
        rho = 1 / with_last[:, n]
        rho = torch.where(torch.isfinite(rho), rho, 0)
        t = self.coefficients
        if n > 0:
            t[:, n, :n] = rho[:, None] * torch.bmm(with_last[:, None, 1:], t[:, :n, :n]).squeeze(1)
        t[:, n, n] = rho
        c = torch.bmm(t[:, : n + 1, : n + 1], with_g[..., None]).squeeze(2)
        d = g + _combine(c[:, :n], steps[:, 1:]) if n > 0 else g
        scale = 1 / (1 - c[:, n])
        accepted = torch.isfinite(scale)
        t[:, n] = torch.where(accepted[:, None], t[:, n], 0)
        return d * torch.where(accepted, scale, 1).to(g.dtype)[:, None]


def broyden(f: FixedPointFn, z0: Tensor, *, threshold: int, eps: float = 1e-3, stop_mode: str = "rel") -> SolverResult:
    """Broyden's "good" method on g(z) = f(z) - z, with full steps and an inverse update from B_0 = -I.

    z_{n+1} = z_n - B_n g_n; inner products run over each sequence's own entries, so the estimates B are one per
    sequence; the residual that stops the solve is that of the whole batch.

    Args:
        f: the map, (B, *) -> (B, *).
        z0: the start (B, *); its dtype and device are kept.
        threshold: largest number of updates; f is evaluated at most threshold + 1 times.
        eps: residual (in the stop mode) below which the solve has converged; 0 takes every step.
        stop_mode: "rel" for ‖g‖ / ‖f(z)‖, "abs" for ‖g‖.

    Returns:
        The iterate of lowest residual (the start is no candidate, unless nothing else is finite) and the report.

    Raises:
        ValueError: a negative threshold or an unknown stop mode.

    Source: C. G. Broyden, Math. Comp. 19 (1965); for equilibrium models arXiv 1909.01377, section 3.
    """
    _check_threshold(threshold)
    tracker = Tracker(z0, eps=eps, stop_mode=stop_mode, tiny=1e-9)
    z = z0
    fz = f(z)
    g = fz - z
    if tracker.record(z, fz, g, candidate=False) or threshold == 0:
        return tracker.result()
    step = g.flatten(1)
    jacobian = InverseJacobian(step, threshold)
    for n in range(1, threshold + 1):
        z = z + step.view_as(z)
        fz = f(z)
        g = fz - z
        if tracker.record(z, fz, g) or n == threshold:
            break
        jacobian.append(step)
        step = jacobian.next_step(g.flatten(1))
    return tracker.result()


def anderson(
    f: FixedPointFn,
    z0: Tensor,
    *,
    threshold: int,
    eps: float = 1e-3,
    stop_mode: str = "rel",
    m: int = 5,
    lam: float = 1e-4,
    beta: float = 1.0,
) -> SolverResult:
    """Anderson acceleration (type II) with a window of m iterates.

    X_k = β αᵀF + (1 - β) αᵀX, where α minimises ‖αᵀG‖² + λ‖α‖² subject to Σα = 1, over the last min(k, m) columns of
    G = F - X, one α per sequence. The first two iterates are X_0 = z0 and X_1 = f(z0).

    Args:
        f: the map, (B, *) -> (B, *).
        z0: the start (B, *); its dtype and device are kept.
        threshold: largest number of evaluations of f.
        eps: residual (in the stop mode) below which the solve has converged; 0 takes every step.
        stop_mode: "rel" for ‖g‖ / ‖f(z)‖, "abs" for ‖g‖.
        m: window, at least 1.
        lam: ridge λ, absolute.
        beta: mixing β in (0, 1].

    Returns:
        The X (not F) of lowest residual among k ≥ 2 (with a threshold of 1 or 2: the last one evaluated), and the
        report.

    Raises:
        ValueError: a negative threshold, an unknown stop mode, or m < 1.

    Source: D. G. Anderson, J. ACM 12 (1965); Walker and Ni, SIAM J. Numer. Anal. 49 (2011).
    """
    _check_threshold(threshold)
    if m < 1:
        raise ValueError(f"m is {m}: the window needs at least 1 column")
    tracker = Tracker(z0, eps=eps, stop_mode=stop_mode, tiny=1e-5)
    window = AndersonWindow(z0.flatten(1), min(m, max(threshold, 1)), lam, beta)
    z = fz = z0
    for k in range(threshold):
        z = window.mix().view_as(z0) if k >= 2 else fz
        fz = f(z)
        g = fz - z
        if tracker.record(z, fz, g, candidate=k >= 2 or k == threshold - 1):
            break
        window.store(k, fz.flatten(1), g.flatten(1))
    return tracker.result()


class AndersonWindow:
    """The last m pairs f(X_k), G_k, (B, m, N) each, and the Gram matrix (B, m, m) of the G's, a row new per step."""

    def __init__(self, like: Tensor, m: int, lam: float, beta: float):
        n_batch, n_state = like.shape
        self.images = like.new_zeros(n_batch, m, n_state)  # F
        self.residuals = like.new_zeros(n_batch, m, n_state)  # G
        self.gram = like.new_zeros(n_batch, m, m, dtype=accumulation_dtype(like))
        self.m, self.lam, self.beta = m, lam, beta
        self.size, self.newest = 0, 0

    def store(self, k: int, fz: Tensor, g: Tensor) -> None:
        slot = k % self.m
        self.newest, self.size = slot, min(k + 1, self.m)
        self.images[:, slot] = fz
        self.residuals[:, slot] = g
        row = _inner(self.residuals, g.unsqueeze(1)).squeeze(1)
        self.gram[:, slot, :] = row
        self.gram[:, :, slot] = row

    def mix(self) -> Tensor:
        """The next iterate (B, N): αᵀF - (1 - β) αᵀG, as X = F - G."""
        n = self.size
        weights = self._weights(self.gram[:, :n, :n])
        mixed = _combine(weights, self.images[:, :n])
        if self.beta != 1.0:
            mixed = mixed - (1 - self.beta) * _combine(weights, self.residuals[:, :n])
        return mixed

    def _weights(self, gram: Tensor) -> Tensor:
        """α (B, n) from [[0, 1ᵀ], [1, G Gᵀ + λ I]] (ν, α) = (1, 0); the newest column alone where that is singular."""
        n_batch, n, _ = gram.shape
        system = gram.new_ones(n_batch, n + 1, n + 1)
        system[:, 0, 0] = 0
        system[:, 1:, 1:] = gram + self.lam * torch.eye(n, dtype=gram.dtype, device=gram.device)
        target = gram.new_zeros(n_batch, n + 1, 1)
        target[:, 0] = 1
        alpha = torch.linalg.solve_ex(system, target).result[:, 1:, 0]
        newest = torch.zeros_like(alpha)
        newest[:, self.newest] = 1
        return torch.where(torch.isfinite(alpha).all(dim=1, keepdim=True), alpha, newest)


SOLVERS: dict[str, Callable[..., SolverResult]] = {"anderson": anderson, "broyden": broyden}
