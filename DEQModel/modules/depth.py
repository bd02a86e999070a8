"""How deep a model goes: how it gets from a map and a start to the state that it reads out.

`modules.deq.DEQModule` is a depth, that of an equilibrium; a fixed number of applications is another.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from .checks import AT_LEAST_ONE
from .iterate import iterate
from .report import SolveInfo
from .state import Map, State


class Depth(Protocol):
    """From a map f and a start z0 to a state, with a graph where gradients are enabled."""

    def __call__(self, f: Map, z0: State) -> tuple[State, SolveInfo | None]:
        """The state, and how it was solved for, None where nothing was.

        Those that solve take `jacobian_samples` too, as `DEQModule` does, for the penalty of an update.
        """


@dataclass(frozen=True)
class Applications:
    """n plain applications of f, with ordinary backpropagation.

    Raises:
        ValueError: no applications.
    """

    n: int

    def __post_init__(self) -> None:
        AT_LEAST_ONE.check("n", self.n)

    def __call__(self, f: Map, z0: State) -> tuple[State, None]:
        return iterate(f, z0, steps=self.n), None


@dataclass(frozen=True)
class AsBuilt:
    """f once: of models whose layers say how deep they go."""

    def __call__(self, f: Map, z0: State) -> tuple[State, None]:
        return f(z0), None


@dataclass(frozen=True)
class DepthSchedule:
    """Depths that follow one another over the steps of a run.

    Args:
        stages: (first step, depth) of each, in rising order; the first one also holds before its first step.

    Raises:
        ValueError: no stages, or first steps that do not rise.
    """

    stages: tuple[tuple[int, Depth], ...]

    def __post_init__(self) -> None:
        firsts = [first for first, _ in self.stages]
        if not firsts:
            raise ValueError("`stages` is empty: pass one or more")
        if any(after <= before for before, after in pairwise(firsts)):
            raise ValueError(f"`stages` begin at the steps {', '.join(map(str, firsts))}: pass them in rising order")

    def changes_at(self, step: int) -> bool:
        """Whether another depth than before this step begins with it."""
        return step in [first for first, _ in self.stages[1:]]

    def at(self, step: int) -> Depth:
        """The depth in this step."""
        begun = bisect_right(self.stages, step, key=lambda stage: stage[0])
        return self.stages[max(begun, 1) - 1][1]
