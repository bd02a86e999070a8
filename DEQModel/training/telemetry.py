"""What the updates came to: since the last log line, since the last validation, and in the whole run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evaluation.solve_statistics import SolveStatistics
from training.update import Update


@dataclass
class Window:
    """Sums over some updates in a row, and the last one's learning rate.

    The sums are over updates that were made; the skipped ones are counted apart.
    """

    lr: float = 0.0
    updates: int = 0
    skipped: int = 0
    tokens: int = 0
    nll: float = 0.0
    norms: float = 0.0
    seconds: float = 0.0
    penalised: int = 0  # updates with the Jacobian penalty
    jacobian_loss: float = 0.0
    regularised: int = 0  # updates with the activation penalty
    activation_loss: float = 0.0
    forward: SolveStatistics = field(default_factory=SolveStatistics)
    backward: SolveStatistics = field(default_factory=SolveStatistics)

    def add(self, update: Update, *, tokens: int, seconds: float, lr: float) -> None:
        """Take in an update, of all processes' tokens."""
        self.lr = lr
        self.seconds += seconds
        for solve in update.solves:
            self.forward.add(solve.forward)
            self.backward.add(solve.backward)
        if not update.is_sound:
            self.skipped += 1
            return
        self.updates += 1
        self.tokens += tokens
        self.nll += update.loss * tokens
        self.norms += update.norm
        if update.jacobian_loss is not None:
            self.penalised += 1
            self.jacobian_loss += update.jacobian_loss
        if update.activation_loss is not None:
            self.regularised += 1
            self.activation_loss += update.activation_loss

    def as_dict(self) -> dict[str, Any]:
        """The sums as plain values, for a file."""
        return {**vars(self), "forward": self.forward.as_dict(), "backward": self.backward.as_dict()}

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> "Window":
        """From `as_dict`, or part of it: what is not there is 0."""
        solves = {kind: SolveStatistics.of(sums[kind]) for kind in ("forward", "backward") if kind in sums}
        return cls(**{**sums, **solves})

    @property
    def loss(self) -> float:
        """Mean nll, nats per token; NaN where all updates were skipped."""
        return self.nll / self.tokens if self.tokens else math.nan

    @property
    def norm(self) -> float:
        """Mean norm of the gradient, likewise."""
        return self.norms / self.updates if self.updates else math.nan

    @property
    def speed(self) -> float:
        """Tokens per second, those of skipped updates apart."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def seconds_per_update(self) -> float:
        """Seconds that an update took, skipped ones included; NaN before the first."""
        n = self.updates + self.skipped
        return self.seconds / n if n else math.nan

    def scalars(self) -> dict[str, float]:
        """The means, by the names of their curves."""
        penalties = {}
        if self.penalised:
            penalties["train/jacobian_loss"] = self.jacobian_loss / self.penalised
        if self.regularised:
            penalties["train/activation_loss"] = self.activation_loss / self.regularised
        return {
            "train/loss": self.loss,
            "train/lr": self.lr,
            "train/gradient_norm": self.norm,
            "train/tokens_per_second": self.speed,
            "train/ms_per_step": 1000 * self.seconds_per_update,
            "train/skipped_updates": self.skipped,
            **penalties,
            **self.forward.scalars("forward"),
            **self.backward.scalars("backward"),
        }


@dataclass(frozen=True)
class TrainingTotals:
    """What the updates took, validations apart; how many were skipped, and how many backward solves failed."""

    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failed_backward_solves: int = 0
    skipped_updates: int = 0

    def plus(self, **more: float) -> "TrainingTotals":
        """With these added."""
        return replace(self, **{name: getattr(self, name) + value for name, value in more.items()})

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on per second."""
        return self.tokens / max(self.seconds, 1e-9)


class Telemetry:
    """Sums over the updates, for log lines, curves and results; part of a run's state.

    Attributes:
        recent: since the last log line.
        since_validation: since the last validation.
        totals: of the whole run.
        points: of the curves, at the step of the last update. A run that goes on writes them once more, as all that
            its curves hold from that step on counts no more: what follows the checkpoint is going to be repeated.
    """

    ENTRIES = ("window", "totals")

    def __init__(self) -> None:
        self.recent, self.since_validation, self.totals = Window(), Window(), TrainingTotals()
        self.points: dict[str, float] = {}

    def add(self, update: Update, *, tokens: int, seconds: float, lr: float) -> None:
        """Take in an update, of all processes' tokens."""
        for window in (self.recent, self.since_validation):
            window.add(update, tokens=tokens, seconds=seconds, lr=lr)
        skipped = int(not update.is_sound)
        self.totals = self.totals.plus(updates=1, seconds=seconds, tokens=tokens, skipped_updates=skipped)
        self.points = {}

    def logged(self) -> Window:
        """What happened since the last log line, which begins anew."""
        recent, self.recent = self.recent, Window()
        self.totals = self.totals.plus(failed_backward_solves=recent.backward.n_failed)
        return recent

    def validated(self) -> Window:
        """What happened since the last validation, which begins anew."""
        window, self.since_validation = self.since_validation, Window()
        return window

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        more = {"since_validation": self.since_validation.as_dict(), "points": self.points}
        return {"window": {**self.recent.as_dict(), **more}, "totals": vars(self.totals)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; older programs kept neither the sums since a validation nor points."""
        recent = dict(state["window"])
        self.since_validation = Window.of(recent.pop("since_validation", {}))
        self.points = dict(recent.pop("points", {}))
        self.recent, self.totals = Window.of(recent), TrainingTotals(**state["totals"])
