"""How the residual falls with the evaluations of f on a fixed batch."""

from dataclasses import dataclass

import torch
from torch import nn

from data.segments import Segment


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
    def of(cls, model: nn.Module, segment: Segment) -> "Probe":
        """Solves for one segment, without a memory, with the model's solver and threshold and eps 0."""
        eager = model.with_settings(f_eps=0.0).eval()
        report = eager(segment.tokens, segment.targets, None).solve.forward
        return cls(report.stop_mode, report.rel_trace if report.stop_mode == "rel" else report.abs_trace)

    def __str__(self) -> str:
        """The curve at the first, second, fourth, eighth, … and the last evaluation."""
        n = len(self.residuals)
        shown = sorted({2**i for i in range(n.bit_length())} | {n}) if n else []
        points = ", ".join(f"{k}: {self.residuals[k - 1]:.1e}" for k in shown)
        return f"probe: {self.stop_mode} residual by evaluation | {points or 'no evaluation'}"
