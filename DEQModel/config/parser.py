"""Declared settings as flags of a command line: help in groups, abbreviations, mistakes in one line."""

import argparse
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from system.errors import UserError
from system.flag import Flag, defaults_of, flags_of

UNDECODABLE = re.compile("[\ud800-\udfff]")  # what Python makes of arguments' bytes that are not UTF-8
OFF = "--no-"  # before the name of a flag that is on or off
LONGEST_NUMBER = 25  # digits; no setting of any sense has more
SHOWN = {int: "N", float: "X", str: "TEXT"}  # in the help, for a value


class Parser(argparse.ArgumentParser):
    """An argument parser of settings; flags that are not given leave nothing in the namespace.

    It reports mistakes as `UserError`: one line, where argparse would print its whole usage before it.

    Args:
        program: its name, as users call it.
        description: what it does.
        groups: title -> class of settings, in the order of the help.
    """

    def __init__(self, program: str, description: str, groups: Mapping[str, type]):
        super().__init__(
            prog=program,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            description=description,
            formatter_class=_Formatter,
        )
        places = [name for settings in groups.values() for name, flag in flags_of(settings).items() if flag.positional]
        self.usage = " ".join(["%(prog)s", *map(str.upper, places), "[flags]"])
        self.flags: dict[str, Flag] = {}
        for title, settings in groups.items():
            group = self.add_argument_group(title)
            defaults = defaults_of(settings)
            for name, flag in flags_of(settings).items():
                self.flags[name] = flag
                _add(group, name, flag, defaults[name])

    def error(self, message: str) -> NoReturn:
        """Raise the mistake, with the flag that comes nearest to one that does not exist."""
        _, _, unknown = message.partition("unrecognized arguments: ")
        flag = unknown.split(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.75)
        raise UserError(f"{message}: did you mean {near[0]}?" if near else message)

    def given(self, arguments: Sequence[str], *, further: bool = False) -> tuple[dict[str, Any], list[str]]:
        """The settings that a command line names, and the arguments that are none of theirs.

        Args:
            arguments: of the command line.
            further: whether there may be such.

        Raises:
            UserError: a flag that does not exist, or a value that it cannot have: an empty one, or no text.
            SystemExit: --help was asked for.
        """
        arguments = expand(arguments, self.flags)
        found, rest = self.parse_known_args(arguments) if further else (self.parse_args(arguments), [])
        values = vars(found)
        for name, value in values.items():
            if isinstance(value, str) and not value.strip():  # as an unset variable of a shell script leaves it
                raise UserError(f"{self.flags[name].option(name)} is empty: pass a value, or leave it out")
            if isinstance(value, str) and UNDECODABLE.search(value):
                raise UserError(f"{self.flags[name].option(name)} is {value!r}: pass text in UTF-8")
        return {name: tuple(value) if self.flags[name].several else value for name, value in values.items()}, rest


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)


def _add(group: argparse._ArgumentGroup, name: str, flag: Flag, default: Any) -> None:
    option = flag.option(name)
    if flag.positional:
        group.add_argument(name, metavar=flag.positional, help=flag.help, nargs="*" if flag.several else "?")
    elif isinstance(default, bool):
        help = f"{_escaped(flag.help)} (default: {'on' if default else 'off'})"
        group.add_argument(option, dest=name, action="store_true", help=help)
        group.add_argument(f"{OFF}{option[2:]}", dest=name, action="store_false", help=argparse.SUPPRESS)
    else:
        spellings = [option, flag.also] if flag.also else [option]
        group.add_argument(*spellings, dest=name, **_argument(flag, default))


def _argument(flag: Flag, default: Any) -> dict[str, Any]:
    """`add_argument`'s keywords; the type is that of the default, where there is one."""
    help = _escaped(flag.help if default in (None, ()) else f"{flag.help} (default: {default!r})")
    several = {"nargs": "+"} if flag.several else {}
    kind = flag.kind or type(default)
    shown = "PATH" if flag.is_place else SHOWN[kind]
    choice = {"choices": flag.choices} if flag.choices else {"metavar": shown}
    return {"type": _typed(kind), "help": help, **choice, **several}


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _typed(kind: type) -> Any:
    if kind is not int:
        return kind

    def whole(text: str) -> int:
        if len(text) > LONGEST_NUMBER:  # Python itself refuses thousands of digits, with an explanation of its own
            raise argparse.ArgumentTypeError(f"a number of {len(text)} digits, where {LONGEST_NUMBER} are enough")
        return int(text)

    whole.__name__ = kind.__name__  # in argparse's message about what is no number
    return whole


def shown(value: Any) -> str:
    """A value as it is typed."""
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def check_range(flag: Flag, name: str, value: float) -> None:
    """Refuse a number that the flag does not allow.

    Raises:
        UserError: one line with the flag, its value and the remedy.
    """
    if value == flag.or_exactly:
        return
    fits = (
        math.isfinite(value)
        and (flag.least is None or value >= flag.least)
        and (flag.above is None or value > flag.above)
        and (flag.below is None or value < flag.below)
    )
    if not fits:
        raise UserError(f"{flag.option(name)} is {value}: pass {_range_in_words(flag)}")


def check_ranges(values: Mapping[str, Any], flags: Mapping[str, Flag]) -> None:
    """`check_range` for every number among the values, those of several included."""
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                check_range(flags[name], name, number)


def _range_in_words(flag: Flag) -> str:
    parts = [
        f"of at least {flag.least}" if flag.least is not None else "",
        f"above {flag.above}" if flag.above is not None else "",
        f"below {flag.below}" if flag.below is not None else "",
    ]
    words = "a finite number " + " and ".join(part for part in parts if part)
    return words.strip() + (f", or {flag.or_exactly}" if flag.or_exactly is not None else "")


def expand(arguments: Sequence[str], flags: Mapping[str, Flag]) -> list[str]:
    """Abbreviated flags written in full, `--flag=value` included.

    A flag may be cut short to any beginning that no other flag shares. Existing scripts rely on that for the
    flags they know, so those are looked at first, then newer flags, and last the forms that switch a flag off.

    Raises:
        UserError: a beginning that several flags share.
    """
    tiers = [
        ["--help"] + [flag.option(name) for name, flag in flags.items() if flag.listed],
        [flag.option(name) for name, flag in flags.items() if not flag.listed]
        + [flag.also for flag in flags.values() if flag.also],
        [f"{OFF}{flag.option(name)[2:]}" for name, flag in flags.items() if flag.is_switch],
    ]
    expanded = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return expanded + list(arguments[position:])
        expanded.append(_expand_one(argument, tiers))
    return expanded


def _expand_one(argument: str, tiers: Sequence[Sequence[str]]) -> str:
    short, equals, value = argument.partition("=")
    if not short.startswith("--") or any(short in tier for tier in tiers):
        return argument
    fits = next((found for tier in tiers if (found := [option for option in tier if option.startswith(short)])), [])
    if len(fits) > 1:
        raise UserError(f"ambiguous option: {short} could match {', '.join(fits)}")
    return fits[0] + equals + value if fits else argument
