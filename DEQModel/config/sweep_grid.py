"""The text of --sweep, "f_thres=4,8 mem_len=0,75", as a grid of settings."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from system.errors import UserError
from system.flag import Flag


def grid(text: str, flags: Mapping[str, Flag], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of the values, the last setting's changing fastest; none for an empty text.

    Raises:
        UserError: a part that is not `setting=value,value,…`, a setting that cannot be swept or comes twice, a value
            of the wrong type.
    """
    axes: dict[str, list[Any]] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if not (equals and values):
            raise UserError(f"--sweep has {part!r}: write settings and values as in f_thres=4,8 mem_len=0,75")
        if name not in flags or not flags[name].sweeps:
            # all else belongs to a model's weights or to its training
            choices = ", ".join(name for name, flag in flags.items() if flag.sweeps)
            raise UserError(f"--sweep cannot change {name!r}: choose from {choices}")
        if name in axes:
            raise UserError(f"--sweep names {name} twice: put all its values after one equals sign")
        axes[name] = [_value(name, value, flags[name], defaults[name]) for value in values.split(",")]
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []


def _value(name: str, text: str, flag: Flag, default: Any) -> Any:
    kind = flag.kind or type(default)
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"--sweep has {name}={text}: pass values of type {kind.__name__}") from None
    if flag.choices and value not in flag.choices:
        raise UserError(f"--sweep has {name}={text}: choose from {', '.join(flag.choices)}")
    return value
