"""The damped fixed-point iteration."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .checks import SHARE
from .iteration import Iteration
from .solver import Solver


@dataclass(frozen=True)
class FixedPoint(Solver):
    """The damped iteration z ← z + damping · (f(z) - z); no memory beyond one state.

    Converges where all eigenvalues of 1 - damping + damping · ∂f/∂z lie inside the unit circle. The threshold is the
    largest number of steps: f is evaluated at most threshold + 1 times.

    Args:
        damping: in (0, 1].

    Raises:
        ValueError: a damping outside (0, 1].
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        SHARE.check("damping", self.damping)

    def start(self, z0: Tensor, threshold: int) -> FixedPointIteration:
        return FixedPointIteration(self.damping)


class FixedPointIteration(Iteration):
    """z ← z + damping · g."""

    def __init__(self, damping: float):
        self.damping = damping

    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        return fz if self.damping == 1 else z + self.damping * g

    def select(self, rows: Tensor) -> None:
        pass
