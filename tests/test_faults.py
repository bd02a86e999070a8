"""Runs that are broken at random end as they would have, or say in one line why not: some of the benchmark's trials."""

import multiprocessing
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from faults.catalogue import FAULTS, NEED_MOUNTS, Task, attempt, prepare, reference
from faults.surroundings import why_no_mounts
from faults.trial import BIT_EQUAL, LOST, REFUSED, LostError, Trial

from training.checkpoint import CHECKPOINT_FILE

TRIALS = {
    "SIGKILL at any moment": 4,
    "SIGKILL at any call of a save": 2,
    "SIGKILL at any byte that is written": 2,
    "SIGKILL while the best model is kept": 1,
    "SIGKILL while the corpus is encoded": 1,
    "SIGKILL while resuming": 1,
    "SIGTERM at any moment": 2,
    "SIGTERM while the best model is kept": 1,
    "SIGINT twice at any moments": 1,
    "SIGINT while the folder is opened": 1,
    "SIGHUP at any moment": 1,
    "SIGUSR1 twice, SIGTERM": 1,
    "checkpoint.pt damaged": 4,
    "both damaged": 1,
    "checkpoint.pt of another run": 1,
    "model_state_dict.pkl damaged": 3,
    "log.txt damaged": 1,
    "corpus cache damaged": 2,
    "training text damaged": 1,
    "pickle with code": 5,
    "weights ruined": 4,
    "learning rate raised, lowered": 2,
    "disk full for some updates": 2,
    "disk full until the end": 1,
    "file size limited for some updates": 1,
    "file size limited at the end": 1,
    "folder removed": 1,
    "folder renamed, put back": 1,
    "folder replaced by a file": 1,
    "folder read-only for some updates": 1,
    "three runs started at once": 1,
    "resumed twice at once": 1,
    "resumed while running": 1,
}

Inside = Callable[..., object]  # calls a function with these arguments


@pytest.fixture(scope="module")
def inside(place) -> Iterator[Inside]:
    """In a process that may fork, as it has no threads."""
    context = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # read when it is started
        yield from pool_of_one(context, place)


def pool_of_one(context: multiprocessing.context.SpawnContext, place: Path) -> Iterator[Inside]:
    with ProcessPoolExecutor(1, context, initializer=prepare, initargs=(place,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@pytest.fixture(scope="module")
def no_mounts() -> str | None:
    return why_no_mounts()


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "number"), [(fault, i) for fault, n in TRIALS.items() for i in range(n)])
def test_broken_run_ends_as_it_would_have_or_says_why_not(fault, number, inside, place, no_mounts):
    if fault in NEED_MOUNTS and no_mounts:
        pytest.skip(f"nothing can be mounted here: {no_mounts}")
    _, verdict, _ = inside(attempt, Task(fault, number, 0, place))
    assert verdict.outcome != LOST, verdict.note


def trial_of(place: Path, folder: Path) -> Trial:
    """Of a run that has been stopped at step 6."""
    trial = Trial(reference("equilibrium", place), lambda: None, 0, folder, random.Random(0))
    trial.stop_at(6)
    return trial


def after_a_bit_of_a_weight(place: Path, folder: Path) -> str:
    """Flipped in a checkpoint that is sound all the same."""
    trial = trial_of(place, folder)
    state = torch.load(trial.folder / CHECKPOINT_FILE, weights_only=True)
    state["model"]["inject_conv.bias"].view(torch.int32)[0] ^= 1
    torch.save(state, trial.folder / CHECKPOINT_FILE)
    try:
        return trial.finish().outcome
    except LostError as error:
        return str(error)


def after_nothing(place: Path, folder: Path) -> str:
    """But the stop."""
    return trial_of(place, folder).finish().outcome


def without_checkpoints(place: Path, folder: Path) -> str:
    """All of them removed."""
    trial = trial_of(place, folder)
    for path in trial.folder.glob("checkpoint*"):
        path.unlink()
    return trial.finish().outcome


@pytest.mark.parametrize(
    ("then", "outcome"),
    [(after_nothing, BIT_EQUAL), (without_checkpoints, REFUSED), (after_a_bit_of_a_weight, "weights func.")],
)
def test_verdicts(then, outcome, inside, place, tmp_path):
    assert outcome in inside(then, place, tmp_path)


def test_trials_are_of_the_catalogue():
    assert TRIALS.keys() <= FAULTS.keys()
