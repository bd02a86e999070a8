"""What the updates came to: since the last log line, and in the whole run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evaluation.report import bar_text, perplexity
from evaluation.solve_statistics import SolveStatistics, shares_in_words
from training.update import Update


@dataclass
class SinceLastLog:
    """Sums over the updates since the last log line, and the last one's learning rate.

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

    def as_dict(self) -> dict[str, Any]:
        """The sums as plain values, for a file."""
        return {**vars(self), "forward": self.forward.as_dict(), "backward": self.backward.as_dict()}

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> "SinceLastLog":
        """From `as_dict`."""
        solves = {kind: SolveStatistics.of(sums[kind]) for kind in ("forward", "backward")}
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

    def scalars(self) -> dict[str, float]:
        """The means, by the names of their curves."""
        penalty = {"train/jacobian_loss": self.jacobian_loss / self.penalised} if self.penalised else {}
        return {
            "train/loss": self.loss,
            "train/perplexity": perplexity(self.loss),
            "train/lr": self.lr,
            "train/gradient_norm": self.norm,
            "train/tokens_per_second": self.speed,
            "train/skipped_updates": self.skipped,
            **penalty,
            **self.forward.scalars("forward"),
            **self.backward.scalars("backward"),
        }

    def brief(self) -> str:
        """The means in the few words that fit beside a progress bar."""
        return bar_text(self.loss, self.speed, f=self.forward, b=self.backward)

    def warning(self) -> str | None:
        """A line on backward solves that failed; None where none did."""
        solves = self.backward
        if not solves.n_failed:
            return None
        return (
            f"warning: {solves.n_failed} of {solves.n_solves} backward solves failed "
            f"({shares_in_words(solves.shares())}; mean residual "
            f"{solves.mean_residual:.1e}), so that their updates followed no true gradient: raise "
            "--b_thres, lower --lr or pass --jac_loss_weight"
        )

    def __str__(self) -> str:
        parts = [
            f"lr {self.lr:.3g}",
            f"loss {self.loss:.3f}",
            f"ppl {perplexity(self.loss):.2f}",
            f"gradient {self.norm:.3g}",
            f"{1000 * self.seconds / (self.updates + self.skipped):.0f} ms/step",
            f"{self.speed:,.0f} tokens/s",
        ]
        if self.skipped:
            parts.append(f"{self.skipped} updates skipped")
        if self.penalised:
            parts.append(f"jacobian {self.jacobian_loss / self.penalised:.3g} in {self.penalised} updates")
        for name, solves in (("forward", self.forward), ("backward", self.backward)):
            if solves.n_solves:
                parts.append(f"{name} {solves}")
        return " | ".join(parts)


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
    """Sums over the updates, for log lines, curves and results; part of a run's state."""

    ENTRIES = ("window", "totals")

    def __init__(self) -> None:
        self.recent, self.totals = SinceLastLog(), TrainingTotals()

    def add(self, update: Update, *, tokens: int, seconds: float, lr: float) -> None:
        """Take in an update, of all processes' tokens."""
        self.recent.add(update, tokens=tokens, seconds=seconds, lr=lr)
        skipped = int(not update.is_sound)
        self.totals = self.totals.plus(updates=1, seconds=seconds, tokens=tokens, skipped_updates=skipped)

    def taken(self) -> SinceLastLog:
        """What happened since the last log line, which begins anew."""
        recent, self.recent = self.recent, SinceLastLog()
        self.totals = self.totals.plus(failed_backward_solves=recent.backward.n_failed)
        return recent

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"window": self.recent.as_dict(), "totals": vars(self.totals)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.recent, self.totals = SinceLastLog.of(state["window"]), TrainingTotals(**state["totals"])
