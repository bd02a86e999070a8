"""Files that are whole, or as they were before, whenever the process or the machine stops."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file by what `write` puts into the one that it is given.

    That one lies beside `path` and is on disk before it takes the name. A process that is killed leaves at most
    `.<name>.tmp`, which the next call writes over: a file must have one writer.

    Args:
        path: the file, in a folder that exists.
        write: called once; it may be `torch.save`'s.

    Raises:
        OSError: it cannot be written (full disk, no permission); what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None  # torch.save hides a full disk behind an error of its own
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike) -> None:
    """Put the names of a folder's files on disk, where the file system can: the files themselves are whole anyway."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
