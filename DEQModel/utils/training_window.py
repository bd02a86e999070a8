"""What happened since the last log line, and how it is told."""

from dataclasses import dataclass, field

from utils.evaluation import bar_text, perplexity
from utils.solve_statistics import SolveStatistics, in_words


@dataclass
class Window:
    """Sums over the updates since the last log line, and the last one's learning rate."""

    lr: float = 0.0
    updates: int = 0
    tokens: int = 0
    nll: float = 0.0
    norms: float = 0.0
    seconds: float = 0.0
    penalised: int = 0  # updates with the Jacobian penalty
    jacobian_loss: float = 0.0
    forward: SolveStatistics = field(default_factory=SolveStatistics)
    backward: SolveStatistics = field(default_factory=SolveStatistics)

    def scalars(self) -> dict[str, float]:
        """The means, by the names of their curves."""
        loss = self.nll / self.tokens
        penalty = {"train/jacobian_loss": self.jacobian_loss / self.penalised} if self.penalised else {}
        return {
            "train/loss": loss,
            "train/perplexity": perplexity(loss),
            "train/lr": self.lr,
            "train/gradient_norm": self.norms / self.updates,
            "train/tokens_per_second": self.tokens / self.seconds,
            **penalty,
            **self.forward.scalars("forward"),
            **self.backward.scalars("backward"),
        }

    def brief(self) -> str:
        """The means in the few words that fit beside a progress bar."""
        return bar_text(self.nll / self.tokens, self.tokens / self.seconds, f=self.forward, b=self.backward)

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
        loss = self.nll / self.tokens
        parts = [
            f"lr {self.lr:.3g}",
            f"loss {loss:.3f}",
            f"ppl {perplexity(loss):.2f}",
            f"gradient {self.norms / self.updates:.3g}",
            f"{1000 * self.seconds / self.updates:.0f} ms/step",
            f"{self.tokens / self.seconds:,.0f} tokens/s",
        ]
        if self.penalised:
            parts.append(f"jacobian {self.jacobian_loss / self.penalised:.3g} in {self.penalised} updates")
        for name, solves in (("forward", self.forward), ("backward", self.backward)):
            if solves.n_solves:
                parts.append(f"{name} {solves}")
        return " | ".join(parts)
