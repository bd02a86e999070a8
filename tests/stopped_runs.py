"""Short runs that are stopped at a step and go on, and how two of them are compared."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from logs import is_measured, without_times
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import COURSE, LENGTHS, MODEL, Outcome, call

from training.checkpoint import CHECKPOINT_FILE
from training.trainer import Trainer

SHORT = "--tgt_len 30 --max_step 10 --log-interval 3 --eval-interval 4"  # 7 segments an epoch


def flags(place: Path, kind: str, name: str) -> str:
    """A short run below `place` with the corpus there."""
    base = f"--data {place}/corpus --dataset text --work_dir {place}/R- {MODEL} {LENGTHS} {COURSE} {SHORT}"
    return f"{base} {kind} --name {name}"


def told(folder: Path) -> list[str]:
    """The log without what tells of the clock or of a call."""
    return without_times((folder / "log.txt").read_text())


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each curve that does not tell of the clock."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = [name for name in board.Tags()["scalars"] if not is_measured(name)]
    return {name: [(point.step, point.value) for point in board.Scalars(name)] for name in names}


def content(folder: Path) -> dict:
    return torch.load(folder / CHECKPOINT_FILE, weights_only=True)


def assert_same(one: object, other: object, where: str = "") -> None:
    """Equal to the bit, all but times and what depends on the length of their digits."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"log_end", "restart", "restart_dir"}:
            if not is_measured(key):
                assert_same(one[key], other[key], f"{where} {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where} {i}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@contextmanager
def signal_in_update(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """A signal comes in the update that ends with this step."""
    update = Trainer.update

    def disturbed(trainer, *given):
        if trainer.progress.step + 1 == step:
            os.kill(os.getpid(), number)
        return update(trainer, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", disturbed)
        yield


def restart(folder: Path, further: str = "") -> Outcome:
    return call(f"--restart --restart_dir {folder} {further}")
