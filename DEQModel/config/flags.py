"""A program's command line: text to checked `Settings`."""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

from config.checks import check
from config.depth import equilibrium
from config.settings import Settings, settings_class
from config.sweep_grid import grid
from config.words import mistakes_in_flags
from models.protocol import ModelSpec
from system.errors import UserError
from system.flag import Flag, defaults_of, flags_of

ANY_VOCABULARY = sys.maxsize  # words, larger than any list of word ids asks for


@dataclass(frozen=True)
class CommandLine:
    """What a program that trains a model can be asked for.

    Args:
        program: its name, as users call it.
        spec: the model.
    """

    program: str
    spec: ModelSpec

    def __reduce__(self) -> tuple[type["CommandLine"], tuple[str, ModelSpec]]:
        """For other processes, without the class of settings that has been made, which they do not know."""
        return CommandLine, (self.program, self.spec)

    @cached_property
    def settings(self) -> type[Settings]:
        """The class of its settings."""
        return settings_class(self.spec.flags)

    @cached_property
    def flags(self) -> Mapping[str, Flag]:
        """Setting name -> its flag."""
        return flags_of(self.settings)

    @cached_property
    def flag_names(self) -> Mapping[str, str]:
        """Setting, or option of a solver, -> its flag, as users type it."""
        options = {
            flag.solver_option.option: flag.option(name) for name, flag in self.flags.items() if flag.solver_option
        }
        return options | {name: flag.option(name) for name, flag in self.flags.items()}

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Setting name -> its default."""
        return defaults_of(self.settings)

    def parse(self, arguments: Sequence[str]) -> Settings:
        """The settings that a command line asks for, resolved and checked.

        Raises:
            UserError: the command line is wrong; the message names the flag, its value and the remedy.
            SystemExit: --help was asked for.
        """
        return self.resolved(self.given(arguments))

    def given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The settings that a command line names, unchecked.

        Raises:
            UserError: a flag that does not exist, or a value that it cannot have, as an empty one.
            SystemExit: --help was asked for.
        """
        values = vars(self.parser().parse_args(expand(arguments, self.flags)))
        for name, value in values.items():
            if isinstance(value, str) and not value.strip():  # as an unset variable of a shell script leaves it
                raise UserError(f"{self.flags[name].option(name)} is empty: pass a value, or leave it out")
        several = (name for name in values if self.flags[name].several)
        return {**values, **{name: tuple(values[name]) for name in several}}

    def resolved(self, given: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> Settings:
        """The settings that are named, completed by those of an earlier run or by the defaults; resolved and checked.

        Raises:
            UserError: they make no sense; the message names the flag, its value and the remedy.
        """
        settings = self.settings(**{**(earlier or {}), **given})
        self._check(settings)
        for point in grid(settings.sweep, self.flags, self.defaults):
            self._check(dataclasses.replace(settings, **point))
        return dataclasses.replace(settings, **self._filled_in(settings))

    def _filled_in(self, settings: Settings) -> Mapping[str, Any]:
        with mistakes_in_flags(self.flag_names):
            return self.spec.resolve(settings)

    def _check(self, settings: Settings) -> None:
        check(settings, self.flags, self.defaults)
        whole = dataclasses.replace(settings, **self._filled_in(settings))
        with mistakes_in_flags(self.flag_names):
            equilibrium(whole)
            # The vocabulary is not known yet; all else about a model need not wait for the corpus.
            self.spec.configure(whole, ANY_VOCABULARY)

    def parser(self) -> argparse.ArgumentParser:
        """An argument parser with every setting's flag; abbreviations are expanded before it, by `expand`.

        Flags that are not there leave nothing in the namespace: what they fall back on is not the parser's to know.
        """
        parser = _Parser(
            prog=self.program,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            description=f"Train or evaluate a {self.spec.name}.",
        )
        for name, flag in self.flags.items():
            parser.add_argument(flag.option(name), dest=name, **_argument(flag, self.defaults[name]))
        return parser


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as `UserError`: one line, where argparse would print its whole usage before it."""

    def error(self, message: str) -> NoReturn:
        _, _, unknown = message.partition("unrecognized arguments: ")
        flag = unknown.split(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.75)
        raise UserError(f"{message}: did you mean {near[0]}?" if near else message)


def _argument(flag: Flag, default: Any) -> dict[str, Any]:
    """`add_argument`'s keywords for a flag; its type is that of its default, where that is not None."""
    help = flag.help.replace("%", "%%")
    if isinstance(default, bool):
        return {"action": "store_true", "help": f"{help} (default: off)"}
    if default is not None:
        help += f" (default: {default!r})".replace("%", "%%")
    several = {"nargs": "+"} if flag.several else {}
    return {"type": flag.kind or type(default), "choices": flag.choices, "help": help, **several}


def expand(arguments: Sequence[str], flags: Mapping[str, Flag]) -> list[str]:
    """Abbreviated flags written in full, `--flag=value` included.

    A flag may be cut short to any beginning that no other flag shares. Existing scripts rely on that for the
    flags they know, so those are looked at first, and newer flags only where none of them fits.

    Raises:
        UserError: a beginning that several flags share.
    """
    listed = ["--help"] + [flag.option(name) for name, flag in flags.items() if flag.listed]
    newer = [flag.option(name) for name, flag in flags.items() if not flag.listed]
    expanded = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return expanded + list(arguments[position:])
        expanded.append(_expand_one(argument, listed, newer))
    return expanded


def _expand_one(argument: str, listed: list[str], newer: list[str]) -> str:
    short, equals, value = argument.partition("=")
    if not short.startswith("--") or short in listed or short in newer:
        return argument
    fits = [option for option in listed if option.startswith(short)] or [
        option for option in newer if option.startswith(short)
    ]
    if len(fits) > 1:
        raise UserError(f"ambiguous option: {short} could match {', '.join(fits)}")
    return fits[0] + equals + value if fits else argument
