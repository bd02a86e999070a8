"""One run of a comparison: a process of its own, what it leaves, and whether that is there already."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from comparison import SEED, System
from outcome import Outcome
from program import PROGRAMS, Program

from system.errors import UserError
from system.signals import Stopped

SCRIPTS = Path(__file__).resolve().parents[1] / "DEQModel"
STOPS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Job:
    """A system trained with a seed.

    Attributes:
        system: what is trained.
        seed: of weights and data.
        threads: of its process.
        folder: of the comparison.
    """

    system: System
    seed: int
    threads: int
    folder: Path

    @property
    def name(self) -> str:
        """In a few words."""
        return f"{self.system.name}, seed {self.seed}"

    @property
    def program(self) -> Program:
        """That trains it."""
        return PROGRAMS[self.system.program]

    @property
    def words(self) -> tuple[str, ...]:
        """Its command, without its place: what its figures depend on."""
        return (self.system.program, *self.system.flags, SEED, str(self.seed))

    @property
    def place(self) -> Path:
        """A folder for it: runs of other commands have others, and of a preset that has changed since."""
        preset = [self.system.preset] if self.system.preset else []
        digest = hashlib.sha256(json.dumps([self.threads, *self.words, *preset]).encode()).hexdigest()[:10]
        return self.folder / "runs" / f"{Path(self.system.program).stem}-seed-{self.seed}-{digest}"

    def outcome(self) -> Outcome | None:
        """What it came to; None as long as it is not finished.

        Raises:
            UserError: what it left cannot be read.
        """
        found = sorted(self.place.glob(self.program.results))
        return self.program.read(found[0]) if found else None

    def run(self, lock: int) -> str | None:
        """Train, from the checkpoint on where it was interrupted; why it failed, where it did.

        Args:
            lock: a handle of the comparison's folder that the process holds too, and so beyond this one's death.

        Raises:
            Stopped, KeyboardInterrupt: this process was asked to stop; the run has been, too.
        """
        program, *flags = self.words
        checkpoints = sorted(self.place.glob(self.program.checkpoint)) if self.program.checkpoint else []
        if checkpoints:
            flags = ["--restart", "--restart_dir", str(checkpoints[-1].parent)]
        else:
            shutil.rmtree(self.place, ignore_errors=True)  # of an attempt that left nothing to go on from
            flags += self.program.place(self.place)
        self.place.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            out, err = (files.enter_context(open(self.place / f"{name}.txt", "wb")) for name in ("output", "errors"))
            status = _waited_for(
                [sys.executable, str(SCRIPTS / program), *flags],
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(lock,),
            )
        if status == 0 and any(self.place.glob(self.program.results)):
            return None
        said = (self.place / "errors.txt").read_text(errors="replace").strip().splitlines()
        if status < 0:
            said.append(f"killed by {signal.Signals(-status).name}")
        last = said[-1] if said else f"it left no results (status {status})"
        return last.removeprefix(f"{program}: ").removeprefix("error: ")


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Inside, no other comparison is at work in a folder, which is made where it is not there; a handle of its lock.

    Raises:
        UserError: one is, or one of its runs; or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file.fileno()
    except BlockingIOError as error:
        raise UserError(
            f"--out {folder} is in use by another comparison, or a run of one: wait until it has ended"
        ) from error
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written ({error.strerror or error}): name another place") from error


def _waited_for(command: Sequence[str], **options: object) -> int:
    """The exit status of a process, which is asked to stop when this one is."""
    process, asked = None, []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if process is not None:  # else it may be there without a name: an exception would lose it
            raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        process = subprocess.Popen(command, **options)
        if asked:
            raise Stopped(asked[0])
        return process.wait()
    except BaseException:
        if process is not None:
            process.terminate()  # it may save what it has
            process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
