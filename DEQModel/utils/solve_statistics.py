"""Means over many fixed-point solves: steps, evaluations, residual, reasons for stopping."""

from collections import Counter
from collections.abc import Mapping

from modules.tracker import SolveReport, Termination


class SolveStatistics:
    """Sums over solves; the reports are host numbers already, so that adding one costs no synchronisation."""

    def __init__(self) -> None:
        self.n_solves = 0
        self.steps = 0
        self.evals = 0
        self.residual = 0.0
        self.reasons: Counter[Termination] = Counter()

    def add(self, report: SolveReport | None) -> None:
        """Take in a solve; None, where nothing was solved, counts for nothing."""
        if report is None:
            return
        self.n_solves += 1
        self.steps += report.n_steps
        self.evals += report.n_evals
        self.residual += report.residual
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
    def mean_residual(self) -> float:
        """Residual per solve, in the stop mode of each."""
        return self.residual / self.n_solves

    def shares(self) -> dict[str, float]:
        """Share of the solves that ended for each reason, by its name; all reasons are there."""
        return {reason.name.lower(): self.reasons[reason] / self.n_solves for reason in Termination}

    def scalars(self, prefix: str) -> dict[str, float]:
        """The means and shares by name, for a log; empty where nothing was solved."""
        if not self.n_solves:
            return {}
        means = {"steps": self.mean_steps, "evaluations": self.mean_evals, "residual": self.mean_residual}
        stops = {f"stopped/{reason}": share for reason, share in self.shares().items()}
        return {f"{prefix}/{name}": value for name, value in {**means, **stops}.items()}

    def brief(self) -> str:
        """A few words for a progress bar."""
        return f"{self.mean_steps:.1f} steps to {self.mean_residual:.0e}" if self.n_solves else "no solve"

    def __str__(self) -> str:
        if not self.n_solves:
            return "no solve"
        return f"{self.mean_steps:.1f} steps, residual {self.mean_residual:.1e} ({in_words(self.shares())})"


def in_words(shares: Mapping[str, float]) -> str:
    """The reasons that occurred, with their shares."""
    return ", ".join(f"{share:.0%} {reason.replace('_', ' ')}" for reason, share in shares.items() if share > 0)
