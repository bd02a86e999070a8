"""The training script in processes that are forked, so that none waits for the imports, and may be ended anyhow."""

import faulthandler
import functools
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train_transformer
from training import recipe

PATIENCE = 60.0  # seconds; who takes longer hangs
ERROR = "train_transformer.py: error: "
ANSWERED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
BY_THE_WAY = ("encoding ", "waiting for another process", "the encoded corpus is damaged")  # on stderr, no errors
# An interrupt that came just when Python could not pass it on, as where it closes a generator.
SWALLOWED = re.compile(
    r"^Exception ignored in: (?:(?!Exception ignored).)*?^KeyboardInterrupt:? *\n", re.DOTALL | re.MULTILINE
)

Preparation = Callable[[], object]  # called in the new process, before the script


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        status: its exit status; minus the signal's number where one has ended it, None where it had to be.
        out, err: what it wrote.
    """

    status: int | None
    out: str
    err: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL has ended it."""
        return self.status == -signal.SIGKILL

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr that are more than remarks."""
        lines = SWALLOWED.sub("", self.err).splitlines()
        return [line for line in lines if not any(text in line for text in BY_THE_WAY)]

    def why_no_refusal(self) -> str | None:
        """None where it has refused its task: with one line that names a file or a flag."""
        if self.status != 2 or len(self.complaints) != 1 or not self.complaints[0].startswith(ERROR):
            return f"status {self.status}: {self.err[-1500:]!r}"
        return None if "/" in self.err or "--" in self.err else f"names neither file nor flag: {self.err!r}"


class Process:
    """The script's main on these arguments, under way.

    Args:
        words: the arguments.
        output: its stdout and stderr go to files of this name, `.out` and `.err`.
        inside: what to do in the process before.
    """

    def __init__(self, words: Sequence[str], output: Path, inside: Sequence[Preparation] = ()):
        self._files = [output.with_suffix(suffix) for suffix in (".out", ".err")]
        for file in self._files:
            file.write_text("")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ANSWERED)
        self.pid = os.fork()
        if self.pid == 0:
            _live(words, self._files, inside)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._status: int | None = None

    @property
    def out(self) -> str:
        """What it has written so far."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal, if it still is there."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether it has."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Until it has ended; one that takes too long is ended, and has no status."""
        limit = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > limit:
                os.kill(self.pid, signal.SIGABRT)  # tells where it is
                os.waitpid(self.pid, 0)
                return Ended(None, *(path.read_text() for path in self._files))
            time.sleep(0.002)
        return Ended(self._status, *(path.read_text() for path in self._files))

    def lives_for(self, seconds: float) -> bool:
        """Wait so long; whether it is still there then."""
        limit = time.monotonic() + seconds
        while not self.has_ended() and (rest := limit - time.monotonic()) > 0:
            time.sleep(min(rest, 0.002))
        return not self.has_ended()


def _live(words: Sequence[str], files: Sequence[Path], inside: Sequence[Preparation]) -> None:
    """A forked process's life."""
    status = 70
    try:
        for number, path in enumerate(files, start=1):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, number)
            os.close(handle)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        for number in ANSWERED:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        recipe.run = _open_to_signals(recipe.run)
        faulthandler.enable()
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # an interrupt may come just when a file has been opened
        for prepare in inside:
            prepare()
        status = train_transformer.main(words)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _open_to_signals(run: Callable[..., int]) -> Callable[..., int]:
    """Signals that come before wait until the script can answer; those that come after have come too late."""

    @functools.wraps(run)
    def inside(*given: Any) -> int:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ANSWERED)
        try:
            return run(*given)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ANSWERED)

    return inside
