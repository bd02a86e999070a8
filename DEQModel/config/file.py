"""Settings from a file: a run's settings.json, a TOML file, or a preset, which is one, too."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.errors import UserError
from system.flag import OF_THE_CALL, Flag
from system.json_file import read_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"
REMEDY = "pass a run's settings.json, or a TOML file with lines such as d_model = 256"


def preset_file(name: str) -> str:
    """The file of a preset."""
    return str(PRESETS / f"{name}.toml")


def settings_of_file(
    path: str, flags: Mapping[str, Flag], defaults: Mapping[str, Any], remedy: str = REMEDY
) -> dict[str, Any]:
    """The settings that a file names, as if they had been given as flags, but unchecked.

    Of a run's settings.json these are all of the run, but what a call alone was asked for, as --eval.

    Args:
        path: a file that ends with .json or .toml.
        flags, defaults: of the program.
        remedy: the end of the message where it cannot be read.

    Raises:
        UserError: it cannot be read, or names settings that do not exist or values of another type, or another file.
    """
    content = read_settings(path, remedy)
    of_run = {name: value for name, value in content.items() if name not in flags or _is_of_run(path, flags[name])}
    found = typed_settings(of_run, path, flags, defaults)
    if found.get("config"):
        raise UserError(f"{path} names another file, {found['config']}: write its settings here")
    return found


def _is_of_run(path: str, flag: Flag) -> bool:
    return flag.fixed != OF_THE_CALL or path.endswith(".toml")


def typed_settings(
    content: Mapping[str, Any], path: str, flags: Mapping[str, Flag], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings under the names and with the types that a program knows; those that are None are left out.

    Args:
        content: name, or flag without hyphens in front, -> value.
        path: where they come from, for messages.
        flags, defaults: of the program.

    Raises:
        UserError: settings that do not exist, or values of another type.
    """
    by_flag = {flag.option(name)[2:]: name for name, flag in flags.items()}
    named = {by_flag.get(key, key): value for key, value in content.items() if value is not None}
    unknown = sorted(named.keys() - flags.keys())
    if unknown:
        raise UserError(f"{path}: there is no setting {', '.join(unknown)}: names are those of the flags")
    return {key: _typed(path, key, value, flags[key], defaults[key]) for key, value in named.items()}


def read_settings(path: str, remedy: str = REMEDY) -> dict[str, Any]:
    """The settings that a JSON or TOML file holds; those of a run's settings.json without what stands beside them.

    Raises:
        UserError: it cannot be read.
    """
    if path.endswith(".toml"):
        return read_toml(path, REMEDY)
    content = read_json(path, remedy)
    return content["settings"] if isinstance(content.get("settings"), dict) else content


def read_toml(path: str, remedy: str) -> dict[str, Any]:
    """The names and values that a TOML file holds.

    Args:
        path: of the file.
        remedy: the end of the messages.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be understood ({error}): {remedy}") from error


def _typed(path: str, name: str, value: Any, flag: Flag, default: Any) -> Any:
    kind = flag.kind or type(default)
    values = value if flag.several and isinstance(value, list) else [value]
    if flag.several:
        return tuple(_one(path, name, entry, kind, flag, default) for entry in values)
    return _one(path, name, value, kind, flag, default)


def _one(path: str, name: str, value: Any, kind: type, flag: Flag, default: Any) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{path}: {name} is {value!r}: write a value of type {kind.__name__}")
    if flag.choices and value not in flag.choices:
        raise UserError(f"{path}: {name} is {value!r}: choose from {', '.join(flag.choices)}")
    if kind is str and not value.strip() and default != value:
        raise UserError(f"{path}: {name} is empty: write a value, or leave it out")
    return value
