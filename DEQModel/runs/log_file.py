"""The log of a run: lines on disk, and in memory as long as the disk does not take them."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

from system.growing_file import GrowingFile

LONGEST_WAIT = 10_000  # texts that wait in memory


class LogFile:
    """A text file that one process writes, line by line and in order.

    Args:
        path: of the file, which may exist.
        end: bytes of it that stay; None leaves all.
        before_cut: called when no other process can write the file any more; what it raises leaves the file as it is.

    Raises:
        BlockingIOError: another process writes the file.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, end: int | None = None, before_cut: Callable[[], object] = lambda: None):
        self.path = path
        self._file = GrowingFile(path, locked=True)
        self._waiting: deque[bytes] = deque()
        self._n_lost = 0
        try:
            self._file.open()
            before_cut()
            if end is not None:
                self._file.cut(end)
            if self._file.size and not self._file.ends_with(b"\n"):
                self._waiting.append(b"\n")  # the machine stopped in the middle of a line
        except BaseException:
            self._file.close()
            raise

    @property
    def end(self) -> int:
        """Bytes of the log so far, those that wait included."""
        return self._file.size + sum(map(len, self._waiting))

    def write(self, text: str) -> None:
        """Write a text and a line end, behind all that waits.

        Raises:
            OSError: it cannot be written now, and waits for the next call; of very many texts the newest wait.
        """
        self._waiting.append(f"{text}\n".encode(errors="backslashreplace"))  # names of files may be no UTF-8
        try:
            self.flush()
        finally:
            if len(self._waiting) > LONGEST_WAIT:
                self._waiting.popleft()
                self._n_lost += 1

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: some of it still waits.
        """
        if self._n_lost:
            self._file.append(f"({self._n_lost} lines that could not be written are missing here)\n".encode())
            self._n_lost = 0
        while self._waiting:
            self._file.append(self._waiting[0])
            self._waiting.popleft()

    def close(self) -> None:
        """Close the file; what waits is lost."""
        self._file.close()
