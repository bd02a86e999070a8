"""What a fixed-point solve returns, and the bookkeeping of all solvers: norms, traces, best iterate, stop rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

STOP_MODES = ("rel", "abs")
STAGNATION_WINDOW = 30  # steps over which a residual near eps must still move
STAGNATION_RATIO = 1.3  # its largest over its smallest value in that window
STAGNATION_SLACK = 3.0  # "near eps": below this multiple of it
DIVERGENCE_RATIO = 1e3  # growth over the first step's residual, per position, that counts as divergence


class Termination(Enum):
    """Why a solve ended; the value is a sentence for people."""

    CONVERGED = "the residual fell below eps"
    STAGNATED = "the residual stayed near eps without moving"
    MAX_STEPS = "the threshold of steps was reached"
    DIVERGED = "the residual grew far beyond that of the first step"
    NONFINITE = "the residual was not a finite number"


@dataclass(frozen=True)
class SolveReport:
    """How a solve went, as plain numbers (no tensor is kept alive).

    Attributes:
        termination: why it stopped.
        n_steps: index of the last iterate that was evaluated (0 is the start).
        n_evals: evaluations of f.
        best_step: index of the iterate that was returned.
        stop_mode: "rel" or "abs", the trace that the stop rule read.
        abs_trace: ‖g‖ over the whole batch, one entry an evaluation, the start's first.
        rel_trace: ‖g‖ / (‖f(z)‖ + tiny), likewise.
    """

    termination: Termination
    n_steps: int
    n_evals: int
    best_step: int
    stop_mode: str
    abs_trace: tuple[float, ...]
    rel_trace: tuple[float, ...]

    @property
    def abs_residual(self) -> float:
        """‖g‖ of the returned iterate; infinite when it was never evaluated."""
        return self.abs_trace[self.best_step] if self.abs_trace else math.inf

    @property
    def rel_residual(self) -> float:
        """‖g‖ / ‖f(z)‖ of the returned iterate; infinite when it was never evaluated."""
        return self.rel_trace[self.best_step] if self.rel_trace else math.inf

    @property
    def residual(self) -> float:
        """The returned iterate's residual in the stop mode."""
        return self.rel_residual if self.stop_mode == "rel" else self.abs_residual


@dataclass(frozen=True)
class SolverResult:
    """The equilibrium estimate `value` (B, *), in z0's dtype, and the `report` of its solve."""

    value: Tensor
    report: SolveReport


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over x: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def norm(x: Tensor) -> Tensor:
    """‖x‖ over all entries, a scalar tensor."""
    return torch.linalg.vector_norm(x, dtype=accumulation_dtype(x))


class Tracker:
    """Norms, traces, best iterate and stop rule of one solve over a whole batch.

    `record` makes the only host synchronisation of a step: two norms come over in one transfer.
    """

    def __init__(self, z0: Tensor, *, eps: float, stop_mode: str, tiny: float):
        if stop_mode not in STOP_MODES:
            raise ValueError(f"stop_mode is {stop_mode!r}: choose one of {', '.join(STOP_MODES)}")
        self.eps, self.stop_mode, self.tiny = eps, stop_mode, tiny
        positions = z0.shape[1] if z0.dim() > 2 else 1
        self.divergence_ratio = DIVERGENCE_RATIO * positions
        self.traces: dict[str, list[float]] = {"abs": [], "rel": []}
        self.best, self.best_step, self.lowest = z0, 0, math.inf
        self.first_step: int | None = None  # first recorded candidate
        self.termination: Termination | None = None

    @property
    def n_evals(self) -> int:
        return len(self.traces["abs"])

    def record(self, z: Tensor, fz: Tensor, g: Tensor, *, candidate: bool = True) -> bool:
        """Takes in the evaluation fz = f(z), g = fz - z; True when the solve must stop.

        A start-up iterate (candidate=False) enters the traces but is neither returned nor tested for
        convergence, as published results rest on that.
        """
        abs_residual, f_norm = torch.stack([norm(g), norm(fz)]).tolist()
        step = self.n_evals
        self.traces["abs"].append(abs_residual)
        self.traces["rel"].append(abs_residual / (f_norm + self.tiny))
        residual = self.traces[self.stop_mode][-1]
        if not (math.isfinite(abs_residual) and math.isfinite(f_norm)):
            self.termination = Termination.NONFINITE
        elif candidate:
            if self.first_step is None:
                self.first_step = step
            if residual < self.lowest:
                self.best, self.best_step, self.lowest = z, step, residual
            self.termination = self._stop_rule(residual)
        return self.termination is not None

    def _stop_rule(self, residual: float) -> Termination | None:
        trace = self.traces[self.stop_mode][self.first_step :]
        if residual < self.eps:
            return Termination.CONVERGED
        if residual < STAGNATION_SLACK * self.eps and len(trace) > STAGNATION_WINDOW:
            window = trace[-STAGNATION_WINDOW:]
            if max(window) < STAGNATION_RATIO * min(window):
                return Termination.STAGNATED
        if residual > trace[0] * self.divergence_ratio:
            return Termination.DIVERGED
        return None

    def result(self) -> SolverResult:
        report = SolveReport(
            termination=self.termination or Termination.MAX_STEPS,
            n_steps=max(self.n_evals - 1, 0),
            n_evals=self.n_evals,
            best_step=self.best_step,
            stop_mode=self.stop_mode,
            abs_trace=tuple(self.traces["abs"]),
            rel_trace=tuple(self.traces["rel"]),
        )
        return SolverResult(self.best, report)
