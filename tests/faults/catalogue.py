"""All faults by name, and single trials of them."""

import contextlib
import functools
import io
import random
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

import train_transformer
from faults import damage, diverging, killing, surroundings
from faults.trial import KINDS, LOST, LostError, Reference, Trial, Verdict, arguments
from runs.experiment import LOG_FILE, SETTINGS_FILE
from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE

Fault = Callable[[Trial], Verdict]
FAULTS: dict[str, Fault] = {
    "SIGKILL at any moment": killing.killed_at_random,
    "SIGKILL at any call of a save": killing.killed_in("a save"),
    "SIGKILL at any byte that is written": killing.killed_in("bytes"),
    "SIGKILL while the best model is kept": killing.killed_in("keeping the best model"),
    "SIGKILL in a validation": killing.killed_in("a validation"),
    "SIGKILL in the final test": killing.killed_in("the final test"),
    "SIGKILL while the results are written": killing.killed_in("writing the results"),
    "SIGKILL while the corpus is encoded": killing.killed_while_encoding,
    "SIGKILL while the folder is opened": killing.killed_in("opening the run's folder"),
    "SIGKILL while resuming": killing.killed_in("resuming"),
    "SIGTERM at any moment": killing.signalled(signal.SIGTERM),
    "SIGINT at any moment": killing.signalled(signal.SIGINT),
    "SIGINT twice at any moments": killing.signalled(signal.SIGINT, signal.SIGINT),
    "SIGUSR1 at any moment": killing.signalled(signal.SIGUSR1),
    "SIGUSR1 twice, SIGTERM": killing.signalled(signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM),
    "SIGHUP at any moment": killing.signalled(signal.SIGHUP),
    "SIGHUP at any call of a save": killing.signalled_in("a save", signal.SIGHUP),
    "SIGTERM at any call of a save": killing.signalled_in("a save", signal.SIGTERM),
    "SIGTERM while the best model is kept": killing.signalled_in("keeping the best model", signal.SIGTERM),
    "SIGTERM in a validation": killing.signalled_in("a validation", signal.SIGTERM),
    "SIGUSR1 in a validation": killing.signalled_in("a validation", signal.SIGUSR1),
    "SIGINT at any call of a save": killing.signalled_in("a save", signal.SIGINT),
    "SIGINT while the best model is kept": killing.signalled_in("keeping the best model", signal.SIGINT),
    "SIGINT while the folder is opened": killing.signalled_in("opening the run's folder", signal.SIGINT),
    "SIGINT while resuming": killing.signalled_in("resuming", signal.SIGINT),
    "SIGINT while the results are written": killing.signalled_in("writing the results", signal.SIGINT),
    "checkpoint.pt damaged": damage.checkpoints_damaged((CHECKPOINT_FILE,)),
    "checkpoint.previous.pt damaged": damage.checkpoints_damaged((PREVIOUS_FILE,)),
    "both damaged": damage.checkpoints_damaged((CHECKPOINT_FILE, PREVIOUS_FILE)),
    "checkpoint.pt of another run": damage.foreign_checkpoint,
    "model_state_dict.pkl damaged": damage.best_model_damaged,
    "log.txt damaged": damage.record_damaged(LOG_FILE),
    "settings.json damaged": damage.record_damaged(SETTINGS_FILE),
    "event files damaged": damage.record_damaged("events.*"),
    "results.json damaged": damage.results_damaged,
    "corpus cache damaged": damage.cache_damaged,
    "training text damaged": damage.text_damaged,
    "pickle with code": damage.pickle_with_code,
    "weights ruined": diverging.ruined,
    "learning rate raised, lowered": diverging.rate_raised,
    "disk full for some updates": surroundings.disk_full(passes=True),
    "disk full until the end": surroundings.disk_full(passes=False),
    "file size limited for some updates": surroundings.files_limited(passes=True),
    "file size limited until the end": surroundings.files_limited(passes=False),
    "file size limited at the end": surroundings.files_limited_at_the_end,
    "folder removed": surroundings.folder_removed,
    "folder renamed, put back": surroundings.folder_renamed(passes=True),
    "folder renamed": surroundings.folder_renamed(passes=False),
    "folder replaced by a file, put back": surroundings.folder_replaced(passes=True),
    "folder replaced by a file": surroundings.folder_replaced(passes=False),
    "folder read-only for some updates": surroundings.folder_read_only(passes=True),
    "folder read-only until the end": surroundings.folder_read_only(passes=False),
    "three runs started at once": surroundings.started_in_the_same_second,
    "resumed twice at once": surroundings.resumed_twice_at_once,
    "resumed while running": surroundings.resumed_while_running,
}
NEED_MOUNTS = [name for name in FAULTS if name.startswith(("disk", "folder read-only"))]


@dataclass(frozen=True)
class Task:
    """A trial that is to be made.

    Args:
        fault: a key of `FAULTS`.
        number: of the trial, of this fault.
        seed: of all trials.
        place: a folder with a corpus, `corpus`.
    """

    fault: str
    number: int
    seed: int
    place: Path

    @property
    def kind(self) -> str:
        """The run that is broken: they take turns, in another order for each fault."""
        kinds = random.Random(f"{self.seed} {self.fault}").sample(list(KINDS), len(KINDS))
        return kinds[self.number % len(kinds)]


def prepare(place: Path) -> None:
    """Makes this process one that `attempt` may fork: nothing is imported later, no thread is running."""
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread
    tqdm.set_lock(threading.RLock())  # none that forked processes share: one that is killed may hold it
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        tempfile.TemporaryDirectory(dir=place) as warm,
    ):
        train_transformer.main(arguments("equilibrium", place / "corpus", Path(warm), "warm"))
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("threads are running")


@functools.cache
def reference(kind: str, place: Path) -> Reference:
    """Made once in each process."""
    return Reference(kind, place)


def attempt(task: Task) -> tuple[Task, Verdict, float]:
    """Make a trial; its verdict, and the seconds it took. The folder of one that is lost stays."""
    rng = random.Random(f"{task.seed} {task.fault} {task.number}")
    folder = Path(tempfile.mkdtemp(prefix="trial-", dir=task.place))
    others = [kind for kind in KINDS if kind != task.kind]
    whole = reference(task.kind, task.place)
    start = time.monotonic()
    trial = Trial(whole, lambda: reference(rng.choice(others), task.place), task.number, folder, rng)
    try:
        verdict = FAULTS[task.fault](trial)
    except LostError as error:
        verdict = Verdict(LOST, f"{error} [{folder}]")
    except Exception:  # the trial's own; here it is told with the fault's name
        verdict = Verdict(LOST, f"{traceback.format_exc()} [{folder}]")
    else:
        shutil.rmtree(folder)
    return task, replace(verdict, broken=trial.broken), time.monotonic() - start
