"""What happened since the last log line, and how it is told."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.evaluation import bar_text, perplexity
from evaluation.solve_statistics import SolveStatistics, in_words


@dataclass
class Window:
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

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return self.updates + self.skipped == 0

    def as_dict(self) -> dict[str, Any]:
        """The sums as plain values, for a file."""
        return {**vars(self), "forward": self.forward.as_dict(), "backward": self.backward.as_dict()}

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> "Window":
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
            f"warning: {solves.n_failed} of {solves.n_solves} backward solves failed ({in_words(solves.shares())}; "
            f"mean residual {solves.mean_residual:.1e}), so that their updates followed no true gradient: raise "
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
