"""What a method of solving is to the loop that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .report import JacobianEstimate


class Iteration(ABC):
    """The state of one running solve: proposes iterates, and keeps what it needs of the past, per sequence."""

    @abstractmethod
    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        """The next iterate (b, N) after fz = f(z) and g = fz - z."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Goes on with these sequences only."""

    def finish(self) -> JacobianEstimate | None:
        """The estimate of the inverse Jacobian that the solve ended with, where the method makes one."""
        return None
