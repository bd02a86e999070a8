"""When, and how heavily, an update is charged for the size of the equilibrium's Jacobian."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config.settings import Settings

INCREMENT = 0.1  # of the weight


class Charge(NamedTuple):
    """The penalty of one update."""

    weight: float
    samples: int  # vectors v to draw


@dataclass(frozen=True)
class JacobianPenalty:
    """loss + weight · ‖vᵀ ∂f/∂z‖² / entries, in a share of the updates.

    Attributes:
        weight: at step 0, with 0.1 more after each interval; 0 for no penalty at all.
        frequency: probability that an update has the penalty.
        interval: steps; 0 for a weight that stays.
        samples: random vectors v.
        seed: of the draws. Whether a step has the penalty depends on it and on the step's number alone, so that
            nothing else that draws random numbers shifts it.

    Source: Bai, Koltun and Kolter, arXiv 2106.14342, section 4.
    """

    weight: float
    frequency: float
    interval: int
    samples: int
    seed: int

    @classmethod
    def of(cls, settings: Settings) -> "JacobianPenalty":
        """The penalty that a run's settings ask for."""
        return cls(
            settings.jac_loss_weight,
            settings.jac_loss_freq,
            settings.jac_incremental,
            settings.jac_samples,
            settings.seed,
        )

    def at(self, step: int) -> Charge | None:
        """What the equilibrium's update number `step` is charged; None where it goes without the penalty."""
        if self.weight == 0 or np.random.default_rng((self.seed, step)).random() >= self.frequency:
            return None
        return Charge(self.weight + INCREMENT * (step // self.interval if self.interval else 0), self.samples)
