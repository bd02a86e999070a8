"""Files that are damaged between two calls."""

import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from faults.trial import MAX_STEP, TOLD, LostError, Trial, Verdict
from runs.experiment import LOG_FILE, RESULTS_FILE, WEIGHTS_FILE
from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE

CACHE_FILES = ("words.txt", "record.json", "train.int32", "valid.int32", "test.int32")


def flipped(path: Path, rng: random.Random) -> None:
    """1 to 8 bits."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """Some bytes are left."""
    os.truncate(path, rng.randrange(1, path.stat().st_size))


def emptied(path: Path, rng: random.Random) -> None:
    """No byte is left."""
    os.truncate(path, 0)


def zeroed(path: Path, rng: random.Random) -> None:
    """A block of zeros, as file systems leave them after a loss of power."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    size = min(4096, len(content) - start)
    content[start : start + size] = bytes(size)
    path.write_bytes(content)


def deleted(path: Path, rng: random.Random) -> None:
    """No file is left."""
    path.unlink()


def folder(path: Path, rng: random.Random) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def garbage(path: Path, rng: random.Random) -> None:
    """Random bytes, as many."""
    path.write_bytes(rng.randbytes(path.stat().st_size))


DAMAGES = (flipped, cut, emptied, zeroed, garbage, deleted, folder)
OF_FILES = DAMAGES[:-1]  # they can be written over
SILENT = (flipped, zeroed)  # they may hit bytes that tell nothing, or are the same

LATE = range(5, MAX_STEP)  # steps at which there are a previous checkpoint and a best model


def checkpoints_damaged(names: Sequence[str]) -> Callable[[Trial], Verdict]:
    """Of one checkpoint, or of both."""

    def fault(trial: Trial) -> Verdict:
        damage = DAMAGES[trial.number % len(DAMAGES)]
        trial.stop_at(trial.rng.choice(range(1, MAX_STEP) if names == (CHECKPOINT_FILE,) else LATE))
        paths = [trial.folder / name for name in (CHECKPOINT_FILE, PREVIOUS_FILE)]
        sound = [path for path in paths if path.exists() and path.name not in names]
        for name in names:
            damage(trial.folder / name, trial.rng)
        ended = trial.resume().wait()
        noticeable = paths[0] not in sound and damage not in SILENT
        if ended.status == 0 and noticeable and not re.search(f"^warning: .*{paths[0]}", ended.out, re.MULTILINE):
            raise LostError(f"not a word on the {damage.__name__} file: {ended.out!r}")
        if damage is folder and ended.status == 0 and "no checkpoint could be written" in ended.out:
            (trial.folder / names[0]).rmdir()  # it was in the way, as the warning says
            return trial.judge(trial.resume().wait(), but=["checkpoint best"])  # which the last one may not know
        return trial.judge(ended, may_refuse=not sound)

    return fault


def foreign_checkpoint(trial: Trial) -> Verdict:
    """Another run's, whose settings are others, in place of the newest."""
    trial.stop_at(trial.rng.choice(LATE))
    other = trial.other().folder
    shutil.copy(other / CHECKPOINT_FILE, trial.folder)
    ended = trial.resume().wait()
    if ended.status == 0 and re.search(f"^warning: .*{other.name}", ended.out, re.MULTILINE):
        return Verdict(TOLD)
    return trial.judge(ended, may_refuse=True)


def best_model_damaged(trial: Trial) -> Verdict:
    """Of the best model's file."""
    trial.stop_at(trial.rng.choice(LATE))
    trial.damage(trial.folder / WEIGHTS_FILE, OF_FILES)
    return trial.judge(trial.resume().wait(), may_tell=True)


def record_damaged(pattern: str) -> Callable[[Trial], Verdict]:
    """Of the files of the run's record that fit a pattern."""

    def fault(trial: Trial) -> Verdict:
        trial.stop_at(trial.rng.choice(LATE))
        for path in trial.folder.glob(pattern):
            trial.damage(path, OF_FILES)
        return trial.judge(trial.resume().wait(), but=["log"] if pattern == LOG_FILE else [])

    return fault


def results_damaged(trial: Trial) -> Verdict:
    """Of a finished run's results; it is tested again."""
    trial.judge(trial.start().wait())
    trial.damage(trial.folder / RESULTS_FILE, OF_FILES)
    return trial.judge(trial.resume().wait())


def cache_damaged(trial: Trial) -> Verdict:
    """Of a file of the encoded corpus."""
    trial.copy_corpus()
    trial.stop_at(trial.rng.randrange(1, MAX_STEP))
    name = CACHE_FILES[trial.number % len(CACHE_FILES)]
    trial.damage(trial.corpus / ".cache-deq" / "text" / name, DAMAGES)
    return trial.judge(trial.resume().wait())


def text_damaged(trial: Trial) -> Verdict:
    """Of the training text, which makes the run another one."""
    trial.copy_corpus()
    trial.stop_at(trial.rng.randrange(1, MAX_STEP))
    trial.damage(trial.corpus / "train.txt", DAMAGES)
    return trial.refused(trial.resume().wait())


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def with_code(path: Path, rng: random.Random, mark: Path) -> None:
    """A file that runs code in whoever unpickles it: a bare pickle, or either of torch's formats."""
    content = {"format": 1, "model": {"weight": torch.ones(2)}, "more": Code(mark)}
    form = rng.randrange(3)
    if form == 0:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 1)


def pickle_with_code(trial: Trial) -> Verdict:
    """In place of the checkpoint, of both, of the best model, or of what is loaded."""
    mark, way = trial.place / "mark", trial.number % 5
    if way < 3:
        trial.stop_at(trial.rng.choice(LATE))
        for name in ((CHECKPOINT_FILE,), (CHECKPOINT_FILE, PREVIOUS_FILE), (WEIGHTS_FILE,))[way]:
            with_code(trial.folder / name, trial.rng, mark)
        verdict = trial.judge(trial.resume().wait(), may_refuse=way == 1, may_tell=way == 2)
    else:
        file = trial.place / "weights.pkl"
        with_code(file, trial.rng, mark)
        verdict = trial.refused(trial.start(further=["--load", str(file), *["--eval"][: way - 3]]).wait())
    if mark.exists():
        raise LostError("the code was run")
    return verdict
