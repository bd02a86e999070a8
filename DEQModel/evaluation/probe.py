"""How the residual falls with the evaluations of f on a fixed batch."""

from dataclasses import dataclass, replace

import torch

from config.depth import equilibrium
from config.settings import Settings
from data.segments import Segment
from models.protocol import LanguageModel
from system.figures import power


@dataclass(frozen=True)
class Probe:
    """The residual-against-evaluations curve of one segment.

    Attributes:
        stop_mode: kind of residual, "rel" or "abs".
        residuals: of the whole batch; entry k is that of the (k + 1)-th evaluation.
    """

    stop_mode: str
    residuals: tuple[float, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, model: LanguageModel, segment: Segment, settings: Settings) -> "Probe":
        """Solves for one segment, without a memory, with the settings' solver and threshold and eps 0."""
        was_training = model.training
        model.eval()
        _, solve = equilibrium(replace(settings, f_eps=0.0))(*model.problem(segment.tokens, None))
        model.train(was_training)
        report = solve.forward
        return cls(report.stop_mode, report.rel_trace if report.stop_mode == "rel" else report.abs_trace)

    def points(self) -> dict[int, float]:
        """The residual after the first, second, fourth, eighth, … and the last evaluation."""
        n = len(self.residuals)
        return {k: self.residuals[k - 1] for k in sorted({2**i for i in range(n.bit_length())} | {n}) if k}

    def scalars(self) -> dict[str, float]:
        """They, by the names of their curves."""
        return {f"probe/residual_after_{k}": residual for k, residual in self.points().items()}

    def __str__(self) -> str:
        points = ", ".join(f"{k}: {power(residual)}" for k, residual in self.points().items())
        return f"{self.stop_mode} residual by evaluation {points}" if points else "no evaluation"
