"""Means over many fixed-point solves: steps, evaluations, residual, reasons for stopping, and what failed."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.report import SolveReport, Termination
from modules.solvers import SOLVERS
from system.figures import power

NEVER_AN_ANSWER = (Termination.RUNAWAY, Termination.DIVERGED, Termination.NONFINITE)


def failed(report: SolveReport) -> bool:
    """Whether a solve's value is worth nothing: it ran away, diverged, was not finite, or has a residual above 1.

    The relative one: a backward solve that starts from 0 has 1 before its first step.
    """
    return report.termination in NEVER_AN_ANSWER or not report.rel_residual <= 1


class SolveStatistics:
    """Sums over solves; the reports are host numbers already, so that adding one costs no synchronisation."""

    def __init__(self) -> None:
        self.n_solves = 0
        self.n_failed = 0
        self.steps = 0
        self.evals = 0
        self.low_evals = 0
        self.residual = 0.0
        self.sequences = 0
        self.unconverged = 0
        self.reasons: Counter[Termination] = Counter()

    def as_dict(self) -> dict[str, Any]:
        """The sums as plain values, for a file."""
        return {**vars(self), "reasons": {reason.name: count for reason, count in self.reasons.items()}}

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> "SolveStatistics":
        """From `as_dict`."""
        statistics = cls()
        vars(statistics).update(sums)
        statistics.reasons = Counter({Termination[name]: count for name, count in sums["reasons"].items()})
        return statistics

    def add(self, report: SolveReport | None) -> None:
        """Take in a solve; None, where nothing was solved, counts for nothing."""
        if report is None:
            return
        self.n_solves += 1
        self.n_failed += failed(report)
        self.steps += report.n_steps
        self.evals += report.n_evals
        self.low_evals += report.n_low_evals
        self.residual += report.residual
        self.sequences += len(report.sequence_residuals)
        self.unconverged += report.n_unconverged
        self.reasons[report.termination] += 1

    @property
    def mean_steps(self) -> float:
        """Steps per solve; defined once a solve has been added, as are the other means."""
        return self.steps / self.n_solves

    @property
    def mean_evals(self) -> float:
        """Evaluations of f per solve."""
        return self.evals / self.n_solves

    @property
    def mean_low_evals(self) -> float:
        """Those of them that were in low precision."""
        return self.low_evals / self.n_solves

    @property
    def mean_residual(self) -> float:
        """Residual per solve, in the stop mode of each."""
        return self.residual / self.n_solves

    @property
    def unconverged_share(self) -> float:
        """Share of the sequences whose own residual did not fall below eps, over all solves."""
        return self.unconverged / self.sequences

    def shares(self) -> dict[str, float]:
        """Share of the solves that ended for each reason, by its name; all reasons are there."""
        return {reason.name.lower(): self.reasons[reason] / self.n_solves for reason in Termination}

    def scalars(self, prefix: str) -> dict[str, float]:
        """The means and shares by name, for a log; empty where nothing was solved."""
        if not self.n_solves:
            return {}
        values = {
            "steps": self.mean_steps,
            "evaluations": self.mean_evals,
            **({"low_evaluations": self.mean_low_evals} if self.low_evals else {}),
            "residual": self.mean_residual,
            "unconverged_sequences": self.unconverged_share,
            "failed": self.n_failed / self.n_solves,
            **{f"stopped/{reason}": share for reason, share in self.shares().items()},
        }
        return {f"{prefix}/{name}": value for name, value in values.items()}

    def brief(self) -> str:
        """Mean steps and residual, of the same width from line to line."""
        if not self.n_solves:
            return "no solve"
        steps = f"{self.mean_steps:.1f}" if self.mean_steps < 99.95 else f"{self.mean_steps:.0f}"
        return f"{steps:<4} {residual_in_few(self.mean_residual):<4}"

    def __str__(self) -> str:
        if not self.n_solves:
            return "no solve"
        evaluations = evaluations_in_words(self.mean_evals, self.mean_low_evals)
        return in_words(self.mean_steps, evaluations, self.mean_residual, self.shares(), self.unconverged_share)


@dataclass(frozen=True)
class SolveSummary:
    """The solver of an evaluation, and what its solves came to.

    Attributes:
        solver, threshold, eps, stop_mode, stop_scope: of the forward solves; amp: the precision in which they begin.
        options: the solvers' options, by name; None for those at their default.
        steps, evaluations, residual: means over the solves.
        unconverged: share of the sequences whose own residual stayed above eps, over all solves.
        stopped: reason -> share of the solves.
        low_evaluations: those of the evaluations that were in low precision.
    """

    solver: str
    options: Mapping[str, Any]
    threshold: int
    eps: float
    stop_mode: str
    stop_scope: str
    steps: float
    evaluations: float
    residual: float
    unconverged: float
    stopped: Mapping[str, float]
    low_evaluations: float = 0.0
    amp: str = "off"

    def scalars(self) -> dict[str, float]:
        """The numbers that change from one evaluation to the next, by name."""
        return {
            "steps": self.steps,
            "evaluations": self.evaluations,
            **({"low_evaluations": self.low_evaluations} if self.low_evaluations else {}),
            "residual": self.residual,
            "unconverged_sequences": self.unconverged,
            **{f"stopped/{reason}": share for reason, share in self.stopped.items()},
        }

    def brief(self) -> str:
        """Steps, residual and reasons."""
        return f"{self.steps:.1f} steps, residual {residual_in_words(self.residual)} ({shares_in_words(self.stopped)})"

    def in_words(self) -> str:
        """Steps, evaluations, residual, reasons and open sequences."""
        evaluations = evaluations_in_words(self.evaluations, self.low_evaluations)
        return in_words(self.steps, evaluations, self.residual, self.stopped, self.unconverged)

    def __str__(self) -> str:
        given = [(name, value) for name, value in self.options.items() if value is not None]
        options = "".join(
            f", {name} {value if isinstance(value, int) else format(value, 'g')}" for name, value in given
        )
        evaluations = evaluations_in_words(self.evaluations, self.low_evaluations)
        return (
            f"{self.solver}{options}, threshold {self.threshold} {SOLVERS[self.solver].counts}, eps {self.eps:g}, "
            f"stop mode {self.stop_mode}, stop scope {self.stop_scope}\non average {self.steps:.1f} steps, "
            f"{evaluations}, residual {residual_in_words(self.residual, digits=2)}\n"
            f"stopped: {shares_in_words(self.stopped)}; {self.unconverged:.1%} of sequences not converged"
        )


def evaluations_in_words(evaluations: float, low: float) -> str:
    """Mean evaluations, and those in low precision where there are any."""
    return f"{evaluations:.1f} evaluations" + (f" ({low:.1f} of them in bfloat16)" if low else "")


def in_words(steps: float, evaluations: str, residual: float, shares: Mapping[str, float], unconverged: float) -> str:
    """Means over solves, the shares of the reasons for which they stopped, and that of the sequences left open."""
    return (
        f"{steps:.1f} steps, {evaluations}, residual {residual_in_few(residual)}; "
        f"{shares_in_words(shares)}; {unconverged:.0%} open"
    )


def residual_in_few(residual: float) -> str:
    """A residual in four characters, where they can tell it."""
    return power(residual, 0) if math.isfinite(residual) else "unknown"


def residual_in_words(residual: float, digits: int = 1) -> str:
    """A residual; "unknown" where an iterate was never evaluated (a threshold of 0) or was not finite."""
    return f"{residual:.{digits}e}" if math.isfinite(residual) else "unknown"


def shares_in_words(shares: Mapping[str, float]) -> str:
    """The reasons that occurred, with their shares."""
    return ", ".join(f"{share:.0%} {reason.replace('_', ' ')}" for reason, share in shares.items() if share > 0)
