"""What an update is charged for large states, and for states that change much from one token to the next."""

from dataclasses import dataclass

from torch import Tensor

from config.settings import Settings
from models.protocol import LMOutput


@dataclass(frozen=True)
class ActivationPenalty:
    """alpha · mean(h²) + beta · mean((r_{t+1} - r_t)²): activation regularisation, and its temporal form.

    Attributes:
        alpha: weight of the states h after the output dropout.
        beta: weight of the differences of the states r before it, within a segment.

    Source: Merity, McCann and Socher, arXiv 1708.01009.
    """

    alpha: float
    beta: float

    @classmethod
    def of(cls, settings: Settings) -> "ActivationPenalty | None":
        """The penalty that a run's settings ask for; None where both weights are 0."""
        return cls(settings.alpha, settings.beta) if settings.alpha or settings.beta else None

    def __call__(self, output: LMOutput) -> Tensor:
        """The penalty of a segment, a scalar. A segment of one token has no differences, and none are charged."""
        penalty = output.raw.new_zeros(())
        if self.alpha:
            penalty = penalty + self.alpha * output.states.square().mean()
        if self.beta and len(output.raw) > 1:
            penalty = penalty + self.beta * output.raw.diff(dim=0).square().mean()
        return penalty
