"""The command line of the language-model training script: text to checked `Settings`."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from config.checks import check
from config.settings import Flag, Settings, flags_of
from config.sweep_grid import grid
from system.errors import UserError
from utils.adaptive_embedding import check_bins

PROGRAM = "train_transformer.py"
DEFAULT_CUTOFFS = {"wt103": (20000, 40000, 200000)}


def parse(arguments: Sequence[str]) -> Settings:
    """The settings that a command line asks for, resolved and checked.

    Raises:
        UserError: the command line is wrong; the message names the flag, its value and the remedy.
        SystemExit: --help was asked for.
    """
    return settle(typed(arguments))


def typed(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line names, unchecked.

    Raises:
        UserError: a flag that does not exist, or a value that it cannot have.
        SystemExit: --help was asked for.
    """
    options = vars(make_parser().parse_args(expand(arguments)))
    if "cutoffs" in options:
        options["cutoffs"] = tuple(options["cutoffs"])
    return options


def settle(typed: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> Settings:
    """The settings that are named, completed by those of an earlier run or by the defaults; resolved and checked.

    Raises:
        UserError: they make no sense; the message names the flag, its value and the remedy.
    """
    settings = Settings(**{**(earlier or {}), **typed})
    check(settings)
    for point in grid(settings.sweep):
        check(dataclasses.replace(settings, **point))
    settings = resolve(settings)
    # The vocabulary is not known yet; all else about the bins need not wait for the corpus.
    n_token = max(settings.cutoffs, default=0) + 1
    check_bins(n_token, settings.cutoffs, settings.d_embed, settings.div_val)
    return settings


def resolve(settings: Settings) -> Settings:
    """Settings whose default rests on another setting, filled in: d_embed and cutoffs."""
    cutoffs = settings.cutoffs
    if cutoffs is None:
        cutoffs = DEFAULT_CUTOFFS.get(settings.dataset) if settings.adaptive else ()
    if cutoffs is None:
        raise UserError(
            f"--adaptive needs --cutoffs with --dataset {settings.dataset}: "
            "pass the word ids at which its bins start, such as --cutoffs 2500 10000"
        )
    d_embed = settings.d_model if settings.d_embed == -1 else settings.d_embed
    return dataclasses.replace(settings, cutoffs=cutoffs, d_embed=d_embed)


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as `UserError`: one line, where argparse would print its whole usage before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def make_parser() -> argparse.ArgumentParser:
    """An argument parser with every setting's flag; abbreviations are expanded before it, by `expand`.

    Flags that are not there leave nothing in the namespace: what they fall back on is not the parser's to know.
    """
    parser = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        description="Train or evaluate a DEQ-Transformer.",
    )
    flags = flags_of(Settings)
    for field in dataclasses.fields(Settings):
        flag = flags[field.name]
        parser.add_argument(flag.option(field.name), dest=field.name, **_argument(flag, field.default))
    return parser


def _argument(flag: Flag, default: Any) -> dict[str, Any]:
    """`add_argument`'s keywords for a flag; its type is that of its default, where that is not None."""
    help = flag.help.replace("%", "%%")
    if isinstance(default, bool):
        return {"action": "store_true", "help": f"{help} (default: off)"}
    if default is not None:
        help += f" (default: {default!r})".replace("%", "%%")
    several = {"nargs": "+"} if flag.several else {}
    return {"type": flag.kind or type(default), "choices": flag.choices, "help": help, **several}


def expand(arguments: Sequence[str]) -> list[str]:
    """Abbreviated flags written in full, `--flag=value` included.

    A flag may be cut short to any beginning that no other flag shares. Existing scripts rely on that for the
    flags they know, so those are looked at first, and newer flags only where none of them fits.

    Raises:
        UserError: a beginning that several flags share.
    """
    flags = flags_of(Settings)
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
