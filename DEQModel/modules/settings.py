"""The settings of a `DEQModule`: their defaults, what values they may have, and the words for them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .broyden import Broyden
from .checks import AT_LEAST_ONE, COUNT, SHARE, TOLERANCE, Range, check_choice
from .ladder import PRECISIONS
from .prepare import PREPARATIONS
from .solver import Solver
from .solvers import SOLVERS, make_solver
from .stop_rule import STOP_MODES
from .tracker import STOP_SCOPES

GRADIENTS = ("implicit", "one_step", "phantom", "unroll", "reversible")
BACKWARD_STARTS = ("zero", "shine")
OPEN_SHARE = Range(above=0, below=1)


def setting(default: Any, words: str, *, choices: Collection[str] = (), numbers: Range | None = None) -> Any:
    """A field with the words for it, and the values that it may have."""
    return field(default=default, metadata={"help": words, "choices": choices, "numbers": numbers})


@dataclass(frozen=True)
class Settings:
    """How a `DEQModule` solves and differentiates; its docstring says what each one means.

    Raises:
        ValueError: unknown names, numbers that are none or out of range, combinations that make no sense.
    """

    solver: Solver = setting(Broyden(), "solver of the forward solve", choices=SOLVERS)
    b_solver: Solver | None = setting(None, "solver of the backward solve; None for that of `solver`", choices=SOLVERS)
    f_thres: int = setting(
        50, "threshold of the forward solve: steps, with Anderson evaluations, which are one more", numbers=COUNT
    )
    b_thres: int = setting(80, "threshold of the backward solve, counted likewise", numbers=COUNT)
    f_eps: float = setting(1e-3, "residual at which the forward solve has converged", numbers=TOLERANCE)
    b_eps: float = setting(1e-3, "residual at which the backward solve has converged", numbers=TOLERANCE)
    stop_mode: str = setting("rel", "relative or absolute residual in the forward solve", choices=STOP_MODES)
    b_stop_mode: str = setting("rel", "the same in the backward solve", choices=STOP_MODES)
    stop_scope: str = setting("batch", "whether the whole batch stops, or each sequence", choices=STOP_SCOPES)
    grad: str = setting("implicit", "kind of gradient", choices=GRADIENTS)
    phantom_steps: int = setting(5, "applications of the phantom gradient", numbers=AT_LEAST_ONE)
    phantom_damping: float = setting(0.5, "their damping", numbers=SHARE)
    rev_beta: float = setting(0.8, "damping of the reversible iteration", numbers=OPEN_SHARE)
    b_init: str = setting("zero", "start of the backward solve", choices=BACKWARD_STARTS)
    f_thres_delta: int = setting(0, "in training the forward threshold is drawn up to this around it", numbers=COUNT)
    prepare: str = setting("packed", "form of the map in the solves", choices=PREPARATIONS)
    amp: str = setting("off", "precision in which solves begin", choices=PRECISIONS)

    def __post_init__(self) -> None:
        for name in ("solver", "b_solver"):
            if name == "solver" or getattr(self, name) is not None:
                object.__setattr__(self, name, _made(name, getattr(self, name), "", None))
        for own in dataclasses.fields(self):
            _check(own.name, getattr(self, own.name), own.metadata)
        if self.b_init == "shine" and (not isinstance(self.solver, Broyden) or self.stop_scope != "batch"):
            raise ValueError(
                f"`b_init` is 'shine', which shares the Broyden solve of a whole batch, but `solver` is "
                f"{solver_name(self.solver)!r} and `stop_scope` is {self.stop_scope!r}: pass `solver` 'broyden' and "
                "`stop_scope` 'batch'"
            )

    @property
    def backward_solver(self) -> Solver:
        """The solver of the backward solve."""
        return self.b_solver or self.solver

    def changed(
        self,
        *,
        f_options: Mapping[str, Any] | None = None,
        b_options: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Settings:
        """These settings with some changed.

        Args:
            f_options, b_options: options of the solvers; of those that `changes` name, or of those that there are. A
                name alone stands for the solver with its own defaults.
            changes: new values by name.

        Raises:
            TypeError: a setting that there is not.
            ValueError: see the class.
        """
        for name in changes:
            if name not in NAMES:
                meant = meant_setting(name) or f"choose from {', '.join(NAMES)}, f_options, b_options"
                raise TypeError(f"there is no setting {name!r}: {meant}")
        solver = _made("solver", changes.get("solver", self.solver), "f_options", f_options)
        b_solver = changes.get("b_solver", self.b_solver)
        if b_options is not None:
            b_solver = _made("b_solver", b_solver or solver_name(solver), "b_options", b_options)
        elif b_solver == solver_name(solver):
            b_solver = solver
        return dataclasses.replace(self, **changes | {"solver": solver, "b_solver": b_solver})


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if metadata["numbers"] is not None:
        metadata["numbers"].check(name, value)
    elif metadata["choices"] is not SOLVERS:
        check_choice(name, value, metadata["choices"])


NAMES = tuple(own.name for own in dataclasses.fields(Settings))


# What other libraries call things, and where they are here.
ELSEWHERE = {
    "f_solver": "it is called solver",
    "f_max_iter": "it is called f_thres",
    "b_max_iter": "it is called b_thres",
    "f_tol": "it is called f_eps",
    "b_tol": "it is called b_eps",
    "f_stop_mode": "it is called stop_mode",
    "tau": "it is called phantom_damping, or damping and beta among the options of a solver",
    "ift": "it is grad='implicit', which is the default",
    "hook_ift": "it is grad='implicit', which is the default",
    "n_states": "pass iterates to the call",
    "indexing": "pass iterates to the call",
    "eval_f_max_iter": "pass evaluation={'f_thres': …}",
    "iterates": "pass it to the call",
    "callback": "pass it to the call",
    "jacobian_samples": "pass it to the call",
    "sequence_traces": "pass it to the call",
}


def meant_setting(name: str) -> str | None:
    """Words for what a name that is no setting may have meant; None where nobody knows."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.8) if name[0] != "_" and name != "settings" else []
    return f"did you mean {near[0]}?" if near else None


def solver_name(solver: Solver) -> str:
    """The name that SOLVERS has for a solver, its class's where it has none."""
    return next((name for name, kind in SOLVERS.items() if kind is type(solver)), type(solver).__name__)


def _made(parameter: str, solver: Any, options_parameter: str, options: Mapping[str, Any] | None) -> Any:
    """The solver of a name, or one that is given, with these options; messages speak of the parameters."""
    own = {}
    if isinstance(solver, Solver):
        if options is None:
            return solver
        own = {option.name: getattr(solver, option.name) for option in dataclasses.fields(solver)}
        solver = solver_name(solver)
    if not isinstance(solver, str):
        raise ValueError(f"`{parameter}` is {solver!r}: pass one of {', '.join(SOLVERS)}, or a `Solver`")
    check_choice(parameter, solver, SOLVERS)
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"`{options_parameter}` is {options!r}: pass a dict of options by name")
    try:
        return make_solver(solver, own | dict(options or {}))
    except ValueError as error:
        raise ValueError(f"{options_parameter}: {error}") from None
