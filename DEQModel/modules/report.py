"""What solves return: the estimate, and as plain numbers how it was found and why the solve ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from torch import Tensor


class Termination(Enum):
    """Why a solve ended; the value is a sentence for people."""

    CONVERGED = "the residual fell below eps"
    STAGNATED = "the residual stayed near eps without moving"
    MAX_STEPS = "the threshold of steps was reached"
    RUNAWAY = "f(z) grew and f(z) - z did not fall with it: the state went on, and no equilibrium was seen"
    DIVERGED = "the residual grew far beyond that of the first step"
    NONFINITE = "the residual was not a finite number"


REASONS = tuple(Termination)  # the worse, the later


@dataclass(frozen=True)
class SolveReport:
    """How a solve went, as plain numbers (no tensor is kept alive).

    Attributes:
        termination: why it stopped; with the scope "sequence" the worst reason among the sequences.
        n_steps: index of the last iterate that was evaluated (0 is the start).
        n_evals: evaluations of f.
        best_step: index of the iterate that was returned; with the scope "sequence" the largest of theirs.
        stop_mode: "rel" or "abs", the residual that the stop rule read.
        stop_scope: "batch" or "sequence", over what the stop rule took norms.
        eps: residual below which it had converged.
        abs_residual: ‖g‖ of the returned value, over the whole batch, with the scope "batch" all parts of a divided
            one; infinite when it was never evaluated or is not a finite number.
        rel_residual: ‖g‖ / (‖f(z)‖ + tiny), likewise.
        abs_trace, rel_trace: the same residuals of every iterate that was evaluated, the start's first. A sequence
            that has finished counts with the residual that it is returned with. Entries may be NaN or infinite.
        sequence_residuals: own residual of each sequence that is held here, in the stop mode.
        sequence_steps: index of the iterate that each sequence was returned with.
        sequence_terminations: why each sequence stopped; all the same with the scope "batch".
        sequence_traces: where they were asked for, each sequence's residuals of every iterate, in the stop mode;
            one that has finished stays at the residual that it is returned with.
        n_low_evals: how many of the evaluations, the first ones, were in low precision; residuals in the traces that
            stand for them are as exact as that.
    """

    termination: Termination
    n_steps: int
    n_evals: int
    best_step: int
    stop_mode: str
    stop_scope: str
    eps: float
    abs_residual: float
    rel_residual: float
    abs_trace: tuple[float, ...]
    rel_trace: tuple[float, ...]
    sequence_residuals: tuple[float, ...]
    sequence_steps: tuple[int, ...]
    sequence_terminations: tuple[Termination, ...]
    sequence_traces: tuple[tuple[float, ...], ...] = ()
    n_low_evals: int = 0

    @property
    def residual(self) -> float:
        """The returned value's residual in the stop mode."""
        return self.rel_residual if self.stop_mode == "rel" else self.abs_residual

    @property
    def n_unconverged(self) -> int:
        """Sequences whose own residual is not below eps, or is so only because the state ran away."""
        ends = zip(self.sequence_residuals, self.sequence_terminations, strict=True)
        return sum(not residual < self.eps or reason is Termination.RUNAWAY for residual, reason in ends)


class JacobianEstimate(Protocol):
    """A solver's estimate of the inverse Jacobian (∂g/∂z)⁻¹ =: B of g(z) = f(z) - z, one per sequence."""

    def transposed(self, x: Tensor) -> Tensor:
        """-Bᵀ x (B, N): an estimate of y = (∂f/∂z)ᵀ y + x."""


@dataclass(frozen=True)
class SolverResult:
    """The equilibrium estimate `value` (B, *), in z0's dtype, and the `report` of its solve.

    `jacobian` is the estimate of the inverse Jacobian that a solver ended with, for those that make one; letting go of
    the result frees it. `iterates` are those (B, *) that were asked for, in that order; where the solve ended before
    one, the estimate stands in its place.
    """

    value: Tensor
    report: SolveReport
    jacobian: JacobianEstimate | None = None
    iterates: tuple[Tensor, ...] = ()


@dataclass
class SolveInfo:
    """Reports of an equilibrium's two solves; `backward` is None until a gradient has been asked for.

    `jacobian_loss` is the differentiable penalty, and `iterates` are those that were asked for, in that order; where
    the solve ended before one, its result stands in that place, with the result's gradient.
    """

    forward: SolveReport
    backward: SolveReport | None = None
    jacobian_loss: Tensor | None = None
    iterates: tuple[Any, ...] = ()
