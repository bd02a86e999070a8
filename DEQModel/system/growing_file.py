"""A file that grows by whole pieces, and comes back when it has vanished."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class GrowingFile:
    """Pieces of bytes one after the other; each is in the file as a whole or, after an error, not at all.

    A file that has been removed, or whose folder has, is made anew with the next piece.

    Args:
        path: a file that may exist; it is opened with the first piece.
        header: what a file begins with.
        locked: keep other processes out, as long as it is open; file systems without locks do without.
    """

    def __init__(self, path: Path, *, header: bytes = b"", locked: bool = False):
        self.path, self.header, self.locked = path, header, locked
        self.size = 0  # bytes
        self._handle: int | None = None
        self._torn = False  # beyond `size` lies part of a piece

    def open(self) -> None:
        """Open the file, in a folder that is made where there is none.

        Raises:
            BlockingIOError: another process has locked it.
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if self.locked:
                _lock(handle)
            self.size = os.fstat(handle).st_size
        except OSError:
            os.close(handle)
            raise
        self._handle, self._torn = handle, False

    def append(self, piece: bytes) -> None:
        """Write a piece.

        Raises:
            OSError: it cannot be written; the file ends where it did, at the latest when the next piece is written.
        """
        if not self._is_in_place():
            self.close()
            self.open()
        if self._torn:
            self.cut(self.size)
        self.size = os.fstat(self._handle).st_size
        rest = piece if self.size else self.header + piece
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]  # a disk that fills up takes a part first
        except OSError:
            self._torn = True
            with suppress(OSError):
                self.cut(self.size)
            raise
        self.size = os.fstat(self._handle).st_size

    def cut(self, size: int) -> None:
        """Leave the first `size` bytes of an open file.

        Raises:
            OSError: it cannot be written.
        """
        if size < os.fstat(self._handle).st_size:
            os.ftruncate(self._handle, size)
            self.size = size
        self._torn = False

    def ends_with(self, text: bytes) -> bool:
        """Whether these are the last bytes of an open file."""
        return os.pread(self._handle, len(text), max(self.size - len(text), 0)) == text

    def _is_in_place(self) -> bool:
        """Whether the path still is the open file's."""
        if self._handle is None:
            return False
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._handle))
        except OSError as error:
            return error.errno not in GONE

    def close(self) -> None:
        """Close the file and give the lock back; a later piece opens it again."""
        if self._handle is not None:
            with suppress(OSError):  # no piece depends on it
                os.close(self._handle)
            self._handle = None


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks
