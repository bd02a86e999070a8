"""Mistakes in the words of modules and models, told in the flags that a user types."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from system.errors import UserError

EVALUATION_LENGTHS = ("eval_tgt_len", "mem_len")  # settings that an evaluation's need of memory grows with
SETTING = re.compile(r"`(\w+)`")  # how modules and models name a setting


def in_flags(text: str, flag_names: Mapping[str, str]) -> str:
    """A message with flags, as users type them, in place of the settings that it names in backticks."""
    return SETTING.sub(lambda match: flag_names.get(match[1], match[1]), text)


def options(settings: Any, *names: str) -> str:
    """Flags as a choice, "--a, --b or --c", of those settings among the names that there are."""
    *others, last = [f"--{name}" for name in names if hasattr(settings, name)]
    return f"{', '.join(others)} or {last}" if others else last


@contextmanager
def mistakes_in_flags(flag_names: Mapping[str, str], where: str = "") -> Iterator[None]:
    """Around calls that raise ValueErrors about settings, or UserErrors that name some.

    Args:
        flag_names: setting -> its flag, as users type it.
        where: is put before the message, such as the name of a file.

    Raises:
        UserError: in place of a ValueError, or of a UserError, which says where itself, in the words of flags.
    """
    try:
        yield
    except UserError as error:
        raise UserError(in_flags(str(error), flag_names)) from error
    except ValueError as error:
        raise UserError(where + in_flags(str(error), flag_names)) from error
