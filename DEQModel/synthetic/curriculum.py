"""Easier stages that training goes through before the task itself, as the text of --curriculum names them."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from system.errors import UserError
from system.flag import flags_of

S = TypeVar("S")
OF_A_STAGE = ("p", "seq_len", "batch_size", "max_step")
EXAMPLE = '"p=1,2 seq_len=16,32 max_step=200,100"'


def stages(settings: S, text: str) -> list[S]:
    """The settings of each stage of "p=1,2 max_step=200,100", then the settings themselves.

    The first values make the first stage, and so on; what is not named is as in the settings.

    Raises:
        UserError: the text is not of this form, names settings that no stage has, or not the updates of each.
    """
    values: dict[str, list[int]] = {}
    for part in text.split():
        name, equals, numbers = part.partition("=")
        if not (equals and numbers) or name in values:
            raise UserError(f"--curriculum has {part!r}: write each setting once with its values, as in {EXAMPLE}")
        if name not in OF_A_STAGE:
            raise UserError(f"--curriculum cannot change {name!r}: choose from {', '.join(OF_A_STAGE)}")
        values[name] = [_number(name, number, flags_of(settings)[name].least) for number in numbers.split(",")]
    if values and "max_step" not in values:
        raise UserError(f"--curriculum has no max_step: say how many updates each stage has, as in {EXAMPLE}")
    if len(set(map(len, values.values()))) > 1:
        raise UserError(f"--curriculum has {_counts(values)}: pass as many values of each, one a stage")
    easier = [dict(zip(values, numbers, strict=True)) for numbers in zip(*values.values(), strict=True)]
    return [*(dataclasses.replace(settings, **stage) for stage in easier), settings]


def _number(name: str, text: str, least: float) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UserError(f"--curriculum has {name}={text}: pass whole numbers of at least {least}")
    return int(text)


def _counts(values: dict[str, list[int]]) -> str:
    return ", ".join(f"{len(numbers)} value(s) of {name}" for name, numbers in values.items())
