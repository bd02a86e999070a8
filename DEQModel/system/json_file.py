"""Files of JSON: read with errors that people can act on, written whole."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.atomic_file import write_atomically
from system.errors import UserError


def read_json(path: str | os.PathLike, remedy: str) -> dict[str, Any]:
    """The names and values that a file holds.

    Args:
        path: the file.
        remedy: the end of the messages.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}): {remedy}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be understood ({reason}): {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be understood (it holds no names): {remedy}")
    return content


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write names and values, so that the file is whole or as it was before; null for numbers that are not finite.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(_valid(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _valid(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _valid(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
