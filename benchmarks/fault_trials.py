"""Training runs that are broken on purpose, and what becomes of them.

A run is killed, its files are damaged, its disk fills up, it diverges, and so on; it goes on with --restart until it
is through. Then its best model, last checkpoint, results and log (without times) are compared with those of an
undisturbed run. The model and the corpus are tiny; ten kinds of runs take turns: shallow and equilibrium stage,
segments of varying length, chunks, adaptive bins, all schedulers and optimizers.

Printed for each fault: how many trials there were, how often the runs were broken in them, and what became of them:

    bit-equal   it ended as the undisturbed run did, to the bit
    sound       it had diverged, and ended with finite weights and losses under a smaller learning rate
    refused     with one line that says why; where nothing had been saved, it was started anew, and ended so
    told        with a warning that the best model was lost (and a worse one found; the training is bit-equal), or that
                the checkpoint is another run's
    lost        anything else: another result, a traceback, more than a minute without end

    PYTHONPATH=DEQModel:tests python benchmarks/fault_trials.py --trials 10
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from measuring import count

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # before torch is imported: its processes fork

from faults.catalogue import FAULTS, NEED_MOUNTS, Task, attempt, prepare
from faults.surroundings import why_no_mounts
from faults.trial import LOST, OUTCOMES, Verdict
from tiny_run import write_corpus

WIDTH = max(map(len, FAULTS)) + 2


def chosen(only: list[str]) -> list[str]:
    """The faults whose names contain one of these texts, in order; all without a text."""
    return [name for name in FAULTS if not only or any(text in name for text in only)]


def line(name: str, verdicts: list[Verdict], seconds: float) -> str:
    """Of the table."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    broken = sum(verdict.broken for verdict in verdicts)
    outcomes = "".join(f"{counts[outcome] or '-':>11}" for outcome in OUTCOMES)
    return f"{name:{WIDTH}s}{len(verdicts):7d}{broken:8d}{outcomes}{seconds:10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=count, default=10, help="of each fault (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], help="faults whose names contain one of these")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="trials at once (default: %(default)s)")
    parser.add_argument("--folder", default=None, help="where to work (default: the folder for temporary files)")
    args = parser.parse_args()
    names, start = chosen(args.only), time.monotonic()
    if reason := why_no_mounts():
        print(f"left out, as nothing can be mounted here ({reason}): {', '.join(NEED_MOUNTS)}")
        names = [name for name in names if name not in NEED_MOUNTS]
    place = Path(tempfile.mkdtemp(prefix="fault-trials-", dir=args.folder))
    write_corpus(place / "corpus")
    tasks = [Task(name, number, args.seed, place) for name in names for number in range(args.trials)]
    verdicts: dict[str, list[Verdict]] = {name: [] for name in names}
    seconds = Counter()
    outcomes = "".join(f"{outcome:>11}" for outcome in OUTCOMES)
    print(f"{'fault':{WIDTH}s}{'trials':>7}{'broken':>8}{outcomes}{'seconds':>10}", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, initializer=prepare, initargs=(place,)) as pool:
        for future in as_completed(pool.submit(attempt, task) for task in tasks):
            task, verdict, took = future.result()
            verdicts[task.fault].append(verdict)
            seconds[task.fault] += took
            if verdict.outcome == LOST:
                print(f"lost: {task.fault}, trial {task.number}, {task.kind}: {verdict.note}", flush=True)
            if len(verdicts[task.fault]) == args.trials:
                print(line(task.fault, verdicts[task.fault], seconds[task.fault]), flush=True)
    together = [verdict for some in verdicts.values() for verdict in some]
    print(line("all", together, sum(seconds.values())))
    print(f"{time.monotonic() - start:.0f} s; seed {args.seed}; folders of lost trials are in {place}")
    sys.exit(any(verdict.outcome == LOST for verdict in together))


if __name__ == "__main__":
    main()
