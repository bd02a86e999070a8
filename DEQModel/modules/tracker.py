"""The bookkeeping of all solvers: norms, traces, best iterate, stop rule."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from modules.checks import check_choice
from modules.report import REASONS, SolveReport, SolverResult, Termination

# Adds up float64 numbers (k,) over all who hold a part of the batch; the same bits for all of them.
BatchSum = Callable[[np.ndarray], np.ndarray]

STOP_MODES = ("rel", "abs")
STOP_SCOPES = ("batch", "sequence")
TINY = float(np.finfo(np.float64).tiny)  # added to ‖f(z)‖ below the relative residual: 0 / 0 is 0 there
STAGNATION_WINDOW = 30  # steps over which a residual near eps must still move
STAGNATION_RATIO = 1.3  # its largest over its smallest value in that window
STAGNATION_SLACK = 3.0  # "near eps": below this multiple of it
DIVERGENCE_RATIO = 1e3  # growth over the first candidate's residual, per position, that counts as divergence
OPEN = -1  # in place of an index into REASONS: still being solved for


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over x: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def by_row(x: Tensor) -> Tensor:
    """(B, *) to (B, N), a number per sequence (B,) to (B, 1)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def row_norms(x: Tensor) -> Tensor:
    """‖x_b‖ of each row of (B, N): (B,)."""
    return torch.linalg.vector_norm(x, dim=1, dtype=accumulation_dtype(x))


def _residuals(norms: np.ndarray) -> dict[str, np.ndarray]:
    """Both kinds of residual from norms (2, U) of g and of f(z)."""
    return {"abs": norms[0], "rel": norms[0] / (norms[1] + TINY)}


def _finite_or_inf(residuals: np.ndarray) -> tuple[float, ...]:
    return tuple(np.where(np.isfinite(residuals), residuals, math.inf).tolist())


class Tracker:
    """Norms, traces, best iterates and stop rule of one solve, over flattened states (B, N).

    What stops is a unit: the whole batch, or each sequence on its own; U is their number. `record` makes the only host
    synchronisation of a step: two norms per sequence come over in one transfer. Index tensors go the other way only
    while the device has nothing to do, right after it.

    The whole batch may be divided: then all who hold a part of it make as many calls, and what is decided on its norms
    is decided alike everywhere.

    Args:
        z0: the start (B, N).
        positions: L, positions in a sequence: a longer one may grow more before it counts as diverged.
        eps: residual below which a unit has converged.
        stop_mode: "rel" or "abs".
        stop_scope: "batch" or "sequence".
        first_candidate: index of the first iterate that may be returned (the start is, where all others are worse); the
            stop rules apply from it on, and growth over its residual is divergence.
        batch_sum: adds up over the parts of a divided batch, None for an undivided one; called once by each `record`
            and by `result`, with the scope "sequence" never.

    Raises:
        ValueError: an unknown stop mode or scope.
    """

    def __init__(
        self,
        z0: Tensor,
        *,
        positions: int,
        eps: float,
        stop_mode: str,
        stop_scope: str,
        first_candidate: int,
        batch_sum: BatchSum | None = None,
    ):
        check_choice("stop_mode", stop_mode, STOP_MODES)
        check_choice("stop_scope", stop_scope, STOP_SCOPES)
        self.eps, self.stop_mode, self.stop_scope = eps, stop_mode, stop_scope
        self.divergence_ratio = DIVERGENCE_RATIO * positions
        self.first_candidate = first_candidate
        self.batch_sum = None if self.per_sequence else batch_sum
        self.start = self.best = z0
        n_units = len(z0) if self.per_sequence else 1
        self.start_norms = self.best_norms = np.full((2, len(z0)), math.inf)
        self.best_step = np.zeros(n_units, dtype=int)
        self.lowest = np.full(n_units, math.inf)
        self.reason = np.full(n_units, OPEN)
        self.unit_trace: list[np.ndarray] = []  # residuals (U,) in the stop mode, one entry an evaluation
        self.batch_trace: dict[str, list[float]] = {"abs": [], "rel": []}

    @property
    def per_sequence(self) -> bool:
        """Whether the units are sequences."""
        return self.stop_scope == "sequence"

    @property
    def n_evals(self) -> int:
        """Evaluations of f so far."""
        return len(self.unit_trace)

    def is_open(self, rows: np.ndarray) -> np.ndarray:
        """Which of these sequences are still being solved for, (b,) bool."""
        return (self.reason == OPEN)[rows] if self.per_sequence else np.repeat(self.reason == OPEN, len(rows))

    def record(self, rows: np.ndarray, z: Tensor, fz: Tensor, g: Tensor) -> bool:
        """Takes in fz = f(z) and g = fz - z, (b, N), of the sequences `rows` (b,), in rising order.

        Returns whether no unit is left to solve.
        """
        found = torch.stack([row_norms(g), row_norms(fz)]).cpu().double().numpy()
        is_open = self.is_open(rows)
        norms = self.best_norms.copy()  # a finished sequence stays at what it is returned with
        norms[:, rows[is_open]] = found[:, is_open]
        if self.n_evals == 0:
            self.start_norms = self.best_norms = norms
        with np.errstate(invalid="ignore", over="ignore"):
            whole = self._over_the_batch(norms)
            for mode, residual in _residuals(whole).items():
                self.batch_trace[mode].append(float(residual[0]))
            units = norms if self.per_sequence else whole
            improved = self._advance(units, _residuals(units)[self.stop_mode])
        if improved.any():
            self._keep(rows, z, norms, improved)
        return not (self.reason == OPEN).any()

    def _over_the_batch(self, norms: np.ndarray) -> np.ndarray:
        """Norms (2, B) of sequences to those of the batch, (2, 1)."""
        squares = np.square(norms).sum(axis=1)
        if self.batch_sum is not None:
            squares = self.batch_sum(squares)
        return np.sqrt(squares)[:, None]

    def _advance(self, norms: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """Applies the stop rule to the newest residuals (U,); which units are at their lowest so far."""
        step = self.n_evals
        self.unit_trace.append(residual)
        is_open = self.reason == OPEN
        finite = np.isfinite(norms).all(axis=0)
        improved = np.zeros_like(is_open)
        if step >= self.first_candidate:
            improved = is_open & finite & (residual < self.lowest)
            self.best_step[improved], self.lowest[improved] = step, residual[improved]
            for reason, met in self._stop_rules(residual).items():
                self.reason[is_open & met & (self.reason == OPEN)] = REASONS.index(reason)
        self.reason[is_open & ~finite] = REASONS.index(Termination.NONFINITE)
        return improved

    def _stop_rules(self, residual: np.ndarray) -> dict[Termination, np.ndarray]:
        """reason -> which units meet it; the first reason that is met counts."""
        trace = self.unit_trace[self.first_candidate :]
        rules = {Termination.CONVERGED: residual < self.eps}
        if len(trace) > STAGNATION_WINDOW:
            window = np.stack(trace[-STAGNATION_WINDOW:])
            still = window.max(axis=0) < STAGNATION_RATIO * window.min(axis=0)
            rules[Termination.STAGNATED] = (residual < STAGNATION_SLACK * self.eps) & still
        rules[Termination.DIVERGED] = residual > trace[0] * self.divergence_ratio
        return rules

    def _keep(self, rows: np.ndarray, z: Tensor, norms: np.ndarray, improved: np.ndarray) -> None:
        """Holds on to the iterates and norms of the units that are at their lowest."""
        self.best_norms = np.where(improved, norms, self.best_norms)
        if improved.all():
            self.best = z
            return
        source = torch.from_numpy(np.flatnonzero(improved[rows])).to(z.device)
        target = torch.from_numpy(np.flatnonzero(improved)).to(z.device)
        self.best = self.best.index_copy(0, target, z[source])

    def _fall_back_to_the_start(self) -> None:
        """Returns no unit with something worse than it began with."""
        if not self.unit_trace:
            return
        worse = self.unit_trace[0] < self.lowest
        self.best_step[worse] = 0
        if worse.any():
            self._keep(np.arange(len(self.start)), self.start, self.start_norms, worse)

    def result(self) -> SolverResult:
        """The best iterates (B, N) and the report."""
        self._fall_back_to_the_start()
        ended = np.where(self.reason == OPEN, REASONS.index(Termination.MAX_STEPS), self.reason)
        n_rows = len(self.best)
        with np.errstate(invalid="ignore", over="ignore"):
            whole = _residuals(self._over_the_batch(self.best_norms))
            own = _residuals(self.best_norms)[self.stop_mode]
        report = SolveReport(
            termination=REASONS[ended.max(initial=0)],
            n_steps=max(self.n_evals - 1, 0),
            n_evals=self.n_evals,
            best_step=int(self.best_step.max(initial=0)),
            stop_mode=self.stop_mode,
            stop_scope=self.stop_scope,
            eps=self.eps,
            abs_residual=_finite_or_inf(whole["abs"])[0],
            rel_residual=_finite_or_inf(whole["rel"])[0],
            abs_trace=tuple(self.batch_trace["abs"]),
            rel_trace=tuple(self.batch_trace["rel"]),
            sequence_residuals=_finite_or_inf(own),
            sequence_steps=tuple(np.broadcast_to(self.best_step, n_rows).tolist()),
            sequence_terminations=tuple(REASONS[reason] for reason in np.broadcast_to(ended, n_rows)),
        )
        return SolverResult(self.best, report)
