"""Fixed-point solvers: find z with z = f(z), where f maps (B, *) to the same shape.

Shape legend: B sequences in the batch, N entries of one sequence's state (all dimensions but the first, flattened).
Residual g(z) = f(z) - z.

A solver is a *method*, which proposes the next iterate from an evaluation, and the loop `solve`, which all methods
share: it evaluates f, lets a `Tracker` judge the residuals, and drops sequences that have finished. The solvers run in
whatever grad mode they are called in; `modules.deq.DEQModule` calls them without gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from modules.anderson import AndersonWindow
from modules.broyden import InverseJacobian
from modules.report import SolverResult
from modules.tracker import BatchSum, Tracker, by_row

FixedPointFn = Callable[[Tensor], Tensor]  # z (B, *) -> f(z), same shape

COMPACT_BELOW = 0.9  # share of the sequences that f sees which are still open, below which the others leave


class Method(Protocol):
    """Proposes iterates; keeps what it needs of the past, per sequence."""

    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        """The next iterate (b, N) after fz = f(z) and g = fz - z."""

    def select(self, rows: Tensor) -> None:
        """Goes on with these sequences only."""


class FixedPoint:
    """z ← z + damping · g."""

    def __init__(self, damping: float):
        if not 0 < damping <= 1:
            raise ValueError(f"damping is {damping}: pass a number above 0 and at most 1")
        self.damping = damping

    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        return fz if self.damping == 1 else z + self.damping * g

    def select(self, rows: Tensor) -> None:
        pass


class Broyden:
    """z ← z - B g with Broyden's estimate B of the inverse Jacobian of g."""

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

    def finish(self) -> InverseJacobian:
        """The estimate with the last step taken in."""
        if self.step is not None:
            self.jacobian.append(self.step)
        return self.jacobian

    def select(self, rows: Tensor) -> None:
        self.jacobian.select(rows)
        self.step = self.step[rows]


class Anderson:
    """z ← β αᵀF + (1 - β) αᵀX over a window of past iterates; the first step is plain."""

    def __init__(self, window: AndersonWindow):
        self.window = window

    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        self.window.store(fz, g)
        return self.window.mix() if self.window.stored > 1 else fz

    def select(self, rows: Tensor) -> None:
        self.window.select(rows)


def solve(
    f: FixedPointFn,
    z0: Tensor,
    method: Method,
    *,
    max_evals: int,
    first_candidate: int,
    eps: float,
    stop_mode: str,
    stop_scope: str,
    batch_sum: BatchSum | None,
) -> SolverResult:
    """Iterates `method` on f from z0 until the stop rule ends it or f has been evaluated max_evals times.

    With the scope "sequence", finished sequences stay where they stopped; where f has a method `select(rows)`, which
    gives the same map for some of the sequences (rows: a (b,) index tensor), they leave the batch that f sees once
    enough of them have finished.
    """
    shape = z0.shape
    start = z = by_row(z0)
    tracker = Tracker(
        start,
        positions=shape[1] if z0.dim() > 2 else 1,
        eps=eps,
        stop_mode=stop_mode,
        stop_scope=stop_scope,
        first_candidate=first_candidate,
        batch_sum=batch_sum,
    )
    advance = torch.autocast(z0.device.type, enabled=False)(method.advance)  # f alone runs in low precision
    rows = np.arange(len(z0))
    for k in range(max_evals):
        fz = f(z.view(len(z), *shape[1:]))
        _check_image(fz, (len(z), *shape[1:]), z.dtype)
        fz = by_row(fz)
        g = fz - z
        if tracker.record(rows, z, fz, g) or k == max_evals - 1:
            break
        if (is_open := tracker.is_open(rows)).all():
            z = advance(z, fz, g)
            continue
        kept = torch.from_numpy(np.flatnonzero(is_open)).to(z.device)  # before `advance`, which would delay it
        advanced = advance(z, fz, g)[kept]
        if is_open.mean() < COMPACT_BELOW and hasattr(f, "select"):
            rows, z, f = rows[is_open], advanced, f.select(kept)
            method.select(kept)
        else:
            z = z.index_copy(0, kept, advanced)
    result = tracker.result()
    return SolverResult(result.value.view(shape), result.report)


def _check_image(fz: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuses f(z) that is not like z, and derivatives that would fail obscurely or be those of the last step alone."""
    if not isinstance(fz, Tensor):
        raise ValueError(f"f gives a {type(fz).__name__}: it must give a tensor like its argument")
    if fz.shape != shape or fz.dtype != dtype:
        raise ValueError(f"f maps {shape} {dtype} to {tuple(fz.shape)} {fz.dtype}: both must be the same")
    if torch._C._are_functorch_transforms_active() or forward_ad.unpack_dual(fz).tangent is not None:
        raise RuntimeError(
            "an equilibrium has reverse-mode derivatives only, through torch.autograd: it cannot be solved for inside "
            "torch.func.grad, vjp, jvp or vmap, or under forward-mode differentiation"
        )


def _check_threshold(threshold: int) -> None:
    if threshold < 0:
        raise ValueError(f"threshold is {threshold}: pass 0 or more")


def broyden(
    f: FixedPointFn,
    z0: Tensor,
    *,
    threshold: int,
    eps: float = 1e-3,
    stop_mode: str = "rel",
    stop_scope: str = "batch",
    batch_sum: BatchSum | None = None,
    history: int | None = None,
) -> SolverResult:
    """Broyden's "good" method on g(z) = f(z) - z, with full steps and an inverse update from B_0 = -I.

    z_{n+1} = z_n - B_n g_n; inner products run over each sequence's own entries, so the estimates B are one per
    sequence.

    Args:
        f: the map, (B, *) -> (B, *).
        z0: the start (B, *); its dtype and device are kept.
        threshold: largest number of updates; f is evaluated at most threshold + 1 times.
        eps: residual (in the stop mode) below which the solve has converged; 0 takes every step.
        stop_mode: "rel" for ‖g‖ / ‖f(z)‖, "abs" for ‖g‖.
        stop_scope: "batch" stops on the whole batch's residual, "sequence" each sequence on its own.
        batch_sum: where z0 is a part of a batch that several processes divided among themselves, adds up over all of
            them: with the scope "batch" they stop together, on the whole batch's residual. Each must solve at the same
            time, under the same settings, and all get the same bits. None: z0 is the batch.
        history: largest number of pairs of successive steps that B is remembered by, the newest ones; None for all.
            Memory: as many states and two more.

    Returns:
        The iterate of lowest residual (the start only where all others are worse) and the report.

    Raises:
        ValueError: a negative threshold, an unknown stop mode or scope, a history below 1.

    Source: C. G. Broyden, Math. Comp. 19 (1965); for equilibrium models arXiv 1909.01377, section 3.
    """
    _check_threshold(threshold)
    if history is not None and history < 1:
        raise ValueError(f"history is {history}: pass 1 or more")
    method = Broyden(by_row(z0), max(1, min(threshold, history or threshold)))
    result = solve(
        f,
        z0,
        method,
        max_evals=threshold + 1,
        first_candidate=1,
        eps=eps,
        stop_mode=stop_mode,
        stop_scope=stop_scope,
        batch_sum=batch_sum,
    )
    return dataclasses.replace(result, jacobian=method.finish())


def anderson(
    f: FixedPointFn,
    z0: Tensor,
    *,
    threshold: int,
    eps: float = 1e-3,
    stop_mode: str = "rel",
    stop_scope: str = "batch",
    batch_sum: BatchSum | None = None,
    m: int = 5,
    lam: float | None = None,
    beta: float = 1.0,
) -> SolverResult:
    """Anderson acceleration (type II) with a window of m iterates.

    X_k = β αᵀF + (1 - β) αᵀX, where α minimises ‖αᵀG‖² + λ‖α‖² subject to Σα = 1, over the last min(k, m) columns of
    G = F - X, one α per sequence. The first two iterates are X_0 = z0 and X_1 = f(z0).

    Args:
        f, z0, eps, stop_mode, stop_scope, batch_sum: as for `broyden`.
        threshold: largest number of evaluations of f.
        m: window, at least 1.
        lam: ridge λ, 1e-4 being the published one, which stalls once the residuals are small against its root; None
            for one in proportion to the diagonal of G Gᵀ, with which the iterates do not depend on the problem's scale.
            Memory: 2 m states.
        beta: mixing β in (0, 1].

    Returns:
        The X (not F) of lowest residual among k ≥ 2 (with a threshold of 1 or 2: the last one evaluated; the start only
        where all others are worse), and the report.

    Raises:
        ValueError: a negative threshold or λ, an unknown stop mode or scope, m < 1, β outside (0, 1].

    Source: D. G. Anderson, J. ACM 12 (1965); Walker and Ni, SIAM J. Numer. Anal. 49 (2011).
    """
    _check_threshold(threshold)
    return solve(
        f,
        z0,
        Anderson(AndersonWindow(by_row(z0), m, lam, beta)),
        max_evals=threshold,
        first_candidate=max(0, min(2, threshold - 1)),
        eps=eps,
        stop_mode=stop_mode,
        stop_scope=stop_scope,
        batch_sum=batch_sum,
    )


def fixed_point(
    f: FixedPointFn,
    z0: Tensor,
    *,
    threshold: int,
    eps: float = 1e-3,
    stop_mode: str = "rel",
    stop_scope: str = "batch",
    batch_sum: BatchSum | None = None,
    damping: float = 1.0,
) -> SolverResult:
    """The damped iteration z ← z + damping · (f(z) - z); no memory beyond one state.

    Converges where all eigenvalues of 1 - damping + damping · ∂f/∂z lie inside the unit circle.

    Args:
        f, z0, eps, stop_mode, stop_scope, batch_sum: as for `broyden`.
        threshold: largest number of steps; f is evaluated at most threshold + 1 times.
        damping: in (0, 1].

    Returns:
        As `broyden`.

    Raises:
        ValueError: a negative threshold, an unknown stop mode or scope, a damping outside (0, 1].
    """
    _check_threshold(threshold)
    return solve(
        f,
        z0,
        FixedPoint(damping),
        max_evals=threshold + 1,
        first_candidate=1,
        eps=eps,
        stop_mode=stop_mode,
        stop_scope=stop_scope,
        batch_sum=batch_sum,
    )


SOLVERS: dict[str, Callable[..., SolverResult]] = {
    "anderson": anderson,
    "broyden": broyden,
    "fixed_point": fixed_point,
}
