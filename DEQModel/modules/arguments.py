"""The engine's settings as flags of somebody's own argparse program."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from .settings import Settings, solver_name
from .solver import Solver


def add_arguments(parser: argparse.ArgumentParser, *, prefix: str = "", **defaults: Any) -> None:
    """Adds a flag for each setting of a `DEQModule`, under its name, in a group of their own.

        parser = argparse.ArgumentParser()
        add_arguments(parser, f_thres=30)
        deq = DEQModule(**settings_from(parser.parse_args()))

    Values that are no numbers or names that are none are refused by the parser; the rest when the module is made.

    Args:
        parser: a parser without flags of these names.
        prefix: what the flags' names begin with, for a program with several of these modules.
        defaults: settings that begin otherwise here.

    Raises:
        TypeError: a default of a setting that there is not.
        ValueError: a default out of range, or a solver with options of its own.
    """
    group = parser.add_argument_group("equilibrium")
    begin = Settings().changed(**defaults)
    for name in ("solver", "b_solver"):
        solver = getattr(begin, name)
        if solver is not None and solver != type(solver)():
            raise ValueError(f"`{name}` is {solver}, whose options have no flags: give them to DEQModule, as f_options")
    for own in dataclasses.fields(Settings):
        default = getattr(begin, own.name)
        choices = sorted(own.metadata["choices"]) or None
        kind = type(own.default) if own.metadata["numbers"] else str
        shown = solver_name(default) if isinstance(default, Solver) else default
        group.add_argument(
            f"--{prefix}{own.name}",
            type=kind,
            choices=choices,
            default=shown,
            help=f"{own.metadata['help']} (default: {shown})",
        )


def settings_from(arguments: argparse.Namespace, *, prefix: str = "") -> dict[str, Any]:
    """The settings that the flags came to, as `DEQModule` takes them."""
    names = {own.name: f"{prefix}{own.name}".replace("-", "_") for own in dataclasses.fields(Settings)}
    return {name: getattr(arguments, destination) for name, destination in names.items()}
