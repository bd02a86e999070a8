"""Disks that fill up, folders that vanish, and other runs."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from faults.inside import AtSteps, limit_files
from faults.processes import Ended
from faults.trial import MAX_STEP, LostError, Trial, Verdict, arguments
from runs.experiment import RESULTS_FILE
from training.checkpoint import CHECKPOINT_FILE

Action = Callable[[], object]
SMALL = ("-t", "tmpfs", "-o", "size=2m", "tmpfs")
PAGE = 4096
LEAST_LIMIT = 20_000  # bytes; stdout is a file, too
BEST = "checkpoint best"  # its model may wait in memory, and have no file yet
LOSABLE = ("log", BEST)
UNWRITTEN = "could not be written, nor at a second try"
IN_USE = "is in use by another process"


def nothing() -> None:
    """Goes wrong, or needs mending."""


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Something is mounted on a folder."""
    _call("mount", *words, str(folder))
    try:
        yield
    finally:
        _call("umount", "--lazy", str(folder))


def _call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def why_no_mounts() -> str | None:
    """None where file systems can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), *SMALL):
                return None
        except FileNotFoundError as error:
            return str(error)
        except subprocess.CalledProcessError as error:
            return error.stderr.decode().strip()


def _run(trial: Trial, begin: Action, end: Action, passes: bool) -> Ended:
    """The run, with trouble that begins in an update and, if it passes, ends in a later one."""
    first, then = sorted(trial.rng.sample(range(1, MAX_STEP + 1), 2))
    trial.broken += 1
    return trial.start(AtSteps({first: begin, then: end} if passes else {first: begin})).wait()


def _after(trial: Trial, ended: Ended, mend: Action) -> Verdict:
    """See that the run came to its end; where something was not written, that it says so and is made up for."""
    if ended.status == 0:
        return trial.judge(ended, may_tell=True, but=LOSABLE)
    _see_that_it_says_so(trial, ended)
    mend()
    return trial.judge(trial.go_on().wait(), may_tell=True, but=LOSABLE)


def _see_that_it_says_so(trial: Trial, ended: Ended) -> None:
    """It has ended with an error on what could not be written, and without results."""
    trial.refused(ended)
    if UNWRITTEN not in ended.err:
        raise LostError(f"it did not go on: {ended}")
    if (trial.folder / RESULTS_FILE).is_file():
        raise LostError("it has results, and files are missing")


def disk_full(*, passes: bool) -> Callable[[Trial], Verdict]:
    """The run's file system is full, for some updates or until the run has ended."""

    def fault(trial: Trial) -> Verdict:
        trial.work_place = trial.place / "disk"
        trial.work_place.mkdir()
        filler = trial.work_place / "filler"
        left = trial.rng.choice((0, 0, PAGE, trial.rng.randrange(100_000)))

        def fill() -> None:
            disk = os.statvfs(trial.work_place)
            with suppress(OSError):
                filler.write_bytes(bytes(max(disk.f_bavail * disk.f_frsize - left, 1)))

        with mounted(trial.work_place, *SMALL):
            ended = _run(trial, fill, filler.unlink, passes)
            return trial.judge(ended, but=[BEST]) if passes else _after(trial, ended, filler.unlink)

    return fault


def files_limited(*, passes: bool) -> Callable[[Trial], Verdict]:
    """No file may become longer than some size, for some updates or until the process ends."""

    def fault(trial: Trial) -> Verdict:
        whole = (trial.reference.folder / CHECKPOINT_FILE).stat().st_size
        limit = partial(limit_files, trial.rng.randrange(LEAST_LIMIT, whole))
        ended = _run(trial, limit, partial(limit_files, -1), passes)
        return trial.judge(ended, but=[BEST]) if passes else _after(trial, ended, nothing)

    return fault


def files_limited_at_the_end(trial: Trial) -> Verdict:
    """No file may become longer than some size, which the last checkpoint exceeds, from the last update on."""
    whole = (trial.reference.folder / CHECKPOINT_FILE).stat().st_size
    limit = partial(limit_files, trial.rng.randrange(LEAST_LIMIT, whole))
    ended = trial.start(AtSteps({MAX_STEP: limit})).wait()
    trial.broken += 1
    _see_that_it_says_so(trial, ended)
    return trial.judge(trial.go_on().wait())


def folder_removed(trial: Trial) -> Verdict:
    """The run's folder is removed in an update."""
    ended = _run(trial, lambda: shutil.rmtree(trial.folder), nothing, False)
    return trial.judge(ended, may_tell=True, but=LOSABLE)


def folder_renamed(*, passes: bool) -> Callable[[Trial], Verdict]:
    """The run's folder gets another name, and may get its own back; what was written under that meanwhile is lost."""

    def fault(trial: Trial) -> Verdict:
        aside = trial.place / "aside"

        def put_back() -> None:
            shutil.rmtree(trial.folder, ignore_errors=True)
            aside.rename(trial.folder)

        ended = _run(trial, lambda: trial.folder.rename(aside), put_back, passes)
        return trial.judge(ended, may_tell=True, but=LOSABLE)

    return fault


def folder_replaced(*, passes: bool) -> Callable[[Trial], Verdict]:
    """A file is where the run's folder was, for some updates or until the run has ended."""

    def fault(trial: Trial) -> Verdict:
        aside = trial.place / "aside"

        def replace() -> None:
            trial.folder.rename(aside)
            trial.folder.touch()

        def put_back() -> None:
            trial.folder.unlink()
            aside.rename(trial.folder)

        return _after(trial, _run(trial, replace, put_back, passes), nothing if passes else put_back)

    return fault


def folder_read_only(*, passes: bool) -> Callable[[Trial], Verdict]:
    """The run's folder cannot be written, for some updates or until the run has ended."""

    def fault(trial: Trial) -> Verdict:
        def forbid() -> None:
            _call("mount", "--bind", str(trial.folder), str(trial.folder))
            _call("mount", "-o", "remount,ro,bind", str(trial.folder))

        def allow() -> None:
            _call("umount", "--lazy", str(trial.folder))

        try:
            ended = _run(trial, forbid, allow, passes)
        finally:
            if not passes:
                allow()
        return _after(trial, ended, nothing)

    return fault


def started_in_the_same_second(trial: Trial) -> Verdict:
    """Two runs of the same name, or of that of the moment."""
    words = arguments(trial.reference.kind, trial.corpus, trial.place, "twin")
    words = words[: -2 * (trial.number % 2)] if trial.number % 2 else words
    ends = [process.wait() for process in [trial.call(words) for _ in range(3)]]
    folders = [re.search(r"^run folder: (.*)", ended.out, re.MULTILINE) for ended in ends]
    names = [folder and folder[1] for folder in folders]
    if None in names or len(set(names)) != len(ends):
        raise LostError(f"{len(ends)} runs, the folders {names}: {ends}")
    for name, ended in zip(names, ends, strict=True):
        trial.folder = Path(name)
        verdict = trial.judge(ended)
    return verdict


def resumed_twice_at_once(trial: Trial) -> Verdict:
    """Two processes resume a run, one shortly after the other."""
    trial.stop_at(trial.rng.randrange(1, MAX_STEP))
    processes = [trial.resume()]
    processes[0].lives_for(trial.rng.uniform(0, trial.reference.seconds / 2))
    processes.append(trial.resume())
    return _one_goes_on(trial, [process.wait() for process in processes])


def resumed_while_running(trial: Trial) -> Verdict:
    """A process resumes a run that has not stopped."""
    running = trial.start()
    while not trial.has_checkpoint and running.lives_for(0.002):
        pass
    ends = [trial.resume().wait(), running.wait()]
    return _one_goes_on(trial, ends)


def _one_goes_on(trial: Trial, ends: list[Ended]) -> Verdict:
    """See that the others were refused because of it."""
    through = [ended for ended in ends if ended.status == 0]
    for ended in ends:
        if ended.status != 0:
            trial.refused(ended)
            if IN_USE not in ended.err:
                raise LostError(f"refused for another reason: {ended.err}")
    if not through:
        raise LostError(f"neither went on: {ends}")
    return trial.judge(through[-1])
