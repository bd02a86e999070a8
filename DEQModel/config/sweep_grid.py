"""The text of --sweep, "f_thres=4,8 mem_len=0,75", as a grid of settings."""

import dataclasses
from itertools import product
from typing import Any

from config.settings import Settings, flags_of
from system.errors import UserError

# What a finished model may be evaluated with; all else belongs to its weights or to its training.
SWEEPABLE = (
    "f_thres",
    "f_eps",
    "solver",
    "stop_mode",
    "stop_scope",
    "f_history",
    "anderson_ridge",
    "mem_len",
    "local_size",
    "eval_tgt_len",
)


def grid(text: str) -> list[dict[str, Any]]:
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
        if name not in SWEEPABLE:
            raise UserError(f"--sweep cannot change {name!r}: choose from {', '.join(SWEEPABLE)}")
        if name in axes:
            raise UserError(f"--sweep names {name} twice: put all its values after one equals sign")
        axes[name] = [_value(name, value) for value in values.split(",")]
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []


def _value(name: str, text: str) -> Any:
    flag = flags_of(Settings)[name]
    (default,) = (field.default for field in dataclasses.fields(Settings) if field.name == name)
    kind = flag.kind or type(default)
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"--sweep has {name}={text}: pass values of type {kind.__name__}") from None
    if flag.choices and value not in flag.choices:
        raise UserError(f"--sweep has {name}={text}: choose from {', '.join(flag.choices)}")
    return value
