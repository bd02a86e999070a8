"""Systems side by side, each trained with several seeds, as a table and a picture.

    PYTHONPATH=DEQModel python benchmarks/compare.py benchmarks/comparisons/demo.toml --out FOLDER

The file names the systems (`comparison.py` tells how). Each run is a process of its own, one after another. What is
finished is not run again, and what was interrupted goes on, so that a call can be repeated; a run whose command is
another is another run. Paths in the file's flags are relative to the caller's folder. With --seeds others than the
file's are run, with --only some of its systems alone. FOLDER then holds the table (comparison.txt), all figures
(comparison.json), the picture (comparison.png), and the runs.

In the table: all parameters, and the body's, which are those outside of embedding and softmax; figures of the test as
means ± standard deviations over seeds, and the ratio to the best system (of perplexity, bits per character, or the loss
of a synthetic task); solver steps in training, and the residual in the test. Exit status: 2 where a run failed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comparison import Comparison
from job import Job, alone_in
from summary import Summary, as_dict, table

from config.parser import Parser, check_ranges
from plot_runs import HOW_TO_DRAW
from system.atomic_file import write_atomically
from system.errors import UserError
from system.figures import duration
from system.flag import flag, flags_of
from system.json_file import write_json
from system.progress import say
from system.script import leave, with_status

PROGRAM = "compare.py"


@dataclass(frozen=True)
class CompareSettings:
    """What is compared, and where that goes."""

    file: str = flag("", "the systems, a TOML file", positional="file", is_place=True)
    out: str = flag("", "folder of runs, table, figures and picture", is_place=True)
    seeds: tuple[int, ...] = flag((), "in place of the file's", kind=int, several=True, least=0, below=2**31)
    only: tuple[str, ...] = flag((), "names of systems: these alone", kind=str, several=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; the exit status."""
    return with_status(run, sys.argv[1:] if argv is None else argv, PROGRAM)


def run(argv: Sequence[str]) -> int:
    """Train what is not finished, and tell what came of all; the exit status.

    Raises:
        UserError: the command line or the file is wrong, or the folder cannot be written.
    """
    groups = {"what": CompareSettings}
    given, _ = Parser(PROGRAM, "Train systems with several seeds, and compare them.", groups).given(argv)
    settings = CompareSettings(**given)
    check_ranges({"seeds": settings.seeds}, flags_of(settings))
    if not settings.file:
        raise UserError("no file: pass a TOML file such as benchmarks/comparisons/demo.toml")
    if not settings.out:
        raise UserError("no --out: pass a folder for the runs and the table")
    comparison = Comparison.read(settings.file).only(settings.only, settings.seeds)
    folder = Path(settings.out)
    with alone_in(folder) as lock:
        summaries = _summaries(comparison, folder.resolve(), lock)
        _tell(summaries, folder)
    return 2 if any(summary.failures for summary in summaries) else 0


def _summaries(comparison: Comparison, folder: Path, lock: int) -> list[Summary]:
    """Of all systems, after all runs: every system's first seed, then every system's second, and so on."""
    summaries = [Summary(system, {}, {}) for system in comparison.systems]
    for seed in comparison.seeds:
        for summary in summaries:
            job = Job(summary.system, seed, comparison.threads, folder)
            _do(job, summary, lock)
    return summaries


def _do(job: Job, summary: Summary, lock: int) -> None:
    """Train unless it is finished; put the outcome or the failure into the summary."""
    try:
        outcome, how, start = job.outcome(), "is there already", time.monotonic()
        if outcome is None:
            say(f"{job.name}: {job.place}")
            failure = job.run(lock)
            if failure:
                raise UserError(failure)
            outcome, how = job.outcome(), f"done in {duration(time.monotonic() - start)}"
    except UserError as error:
        summary.failures[job] = str(error)
        say(f"{job.name}: failed: {error}")
    else:
        summary.outcomes[job] = outcome
        say(f"{job.name}: {how}")


def _tell(summaries: Sequence[Summary], folder: Path) -> None:
    """Show the table; write it, the figures and the picture.

    Raises:
        OSError, UserError: something cannot be written.
    """
    text = table(summaries)
    say(f"\n{text}\n")
    write_atomically(folder / "comparison.txt", lambda file: file.write(f"{text}\n".encode()))
    write_json(folder / "comparison.json", as_dict(summaries))
    say(f"figures: {folder / 'comparison.json'}")
    try:
        from chart import draw
    except ImportError:
        say(HOW_TO_DRAW)
        return
    draw(summaries, folder / "comparison.png")
    say(f"picture: {folder / 'comparison.png'}")


if __name__ == "__main__":
    leave(main)
