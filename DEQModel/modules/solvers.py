"""The solvers by name: they find z with z = f(z), where f maps (B, *) to the same shape.

`SOLVERS[name](…)` makes a solver of its options, and calling that solves: `SOLVERS["broyden"](history=5)(f, z0,
threshold=30)`. The functions of the same names do both at once: `broyden(f, z0, threshold=30, history=5)`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .anderson import Anderson
from .broyden import Broyden
from .fixed_point import FixedPoint
from .report import SolverResult
from .solver import Solver
from .state import Map

SOLVERS: dict[str, type[Solver]] = {
    "anderson": Anderson,
    "broyden": Broyden,
    "fixed_point": FixedPoint,
}


def make_solver(name: str, options: Mapping[str, Any]) -> Solver:
    """The solver of this name, a key of SOLVERS, with these options.

    Raises:
        ValueError: an option that the solver does not have, or a value out of its range.
    """
    known = [field.name for field in dataclasses.fields(SOLVERS[name])]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: choose from {', '.join(known)}")
    return SOLVERS[name](**options)


def _solve(name: str, f: Map, z0: Tensor, arguments: Mapping[str, Any]) -> SolverResult:
    """Makes the solver of those arguments that are no arguments of the solve, and solves with the others."""
    of_solve = inspect.signature(Solver.__call__).parameters
    solver = make_solver(name, {key: value for key, value in arguments.items() if key not in of_solve})
    return solver(f, z0, **{key: value for key, value in arguments.items() if key in of_solve})


def anderson(f: Map, z0: Tensor, **arguments: Any) -> SolverResult:
    """`Anderson(…)(f, z0, …)`, with the arguments of both in any order."""
    return _solve("anderson", f, z0, arguments)


def broyden(f: Map, z0: Tensor, **arguments: Any) -> SolverResult:
    """`Broyden(…)(f, z0, …)`, with the arguments of both in any order."""
    return _solve("broyden", f, z0, arguments)


def fixed_point(f: Map, z0: Tensor, **arguments: Any) -> SolverResult:
    """`FixedPoint(…)(f, z0, …)`, with the arguments of both in any order."""
    return _solve("fixed_point", f, z0, arguments)
