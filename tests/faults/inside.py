"""Things that go wrong inside a process: calls prepare them there, before the script starts."""

import functools
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.sharedctypes import RawValue
from typing import Any

import torch

from data import corpus
from runs.experiment import Experiment
from system import atomic_file
from system.signals import Signals
from training import recipe
from training.best_model import BestModel
from training.trainer import Trainer
from training.update import Update

# Where a signal may come, at any call that Python makes.
PLACES: Mapping[str, tuple[Any, str]] = {
    "a save": (Trainer, "save"),
    "keeping the best model": (BestModel, "consider"),
    "a validation": (Trainer, "validate"),
    "the final test": (recipe, "evaluate"),
    "encoding the corpus": (corpus, "cached_corpus"),
    "opening the run's folder": (recipe, "open_record"),
    "resuming": (Trainer, "resume"),
    "writing the results": (Experiment, "results"),
}

Mark = Callable[..., str]


class Events:
    """Sends the process a signal at one of some events.

    Args:
        at: number of the event; None counts them.
        signal: its number.
    """

    def __init__(self, at: int | None = None, signal: int = signal.SIGKILL):
        self.at, self.signal = at, signal
        self._count = RawValue("q")  # the forked process counts, the one that forks it reads

    @property
    def count(self) -> int:
        """Events so far."""
        return self._count.value

    def pass_by(self, n: int) -> None:
        """Some more events have happened."""
        self._count.value += n

    def strike(self) -> None:
        """Send the signal."""
        os.kill(os.getpid(), self.signal)


class InCalls(Events):
    """The events are calls and returns of all functions, C's included, inside one of `PLACES`.

    Args:
        place: a key of `PLACES`.
        at, signal: as for `Events`.
    """

    def __init__(self, place: str, at: int | None = None, signal: int = signal.SIGKILL):
        super().__init__(at, signal)
        self.place = place

    def __call__(self) -> None:
        owner, name = PLACES[self.place]
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = sys.getprofile()
            sys.setprofile(self._event)
            try:
                return original(*args, **kwargs)
            finally:
                sys.setprofile(before)

        setattr(owner, name, watched)

    def _event(self, *_: object) -> None:
        self.pass_by(1)
        if self.count - 1 == self.at:
            self.strike()


class InWrites(Events):
    """The events are bytes that are written to files which are replaced as a whole."""

    def __call__(self) -> None:
        atomic_file.open = self._open

    def _open(self, path: os.PathLike, mode: str) -> io.FileIO:
        writes = self

        class File(io.FileIO):
            def write(self, piece: Any) -> int:
                piece = memoryview(piece).cast("B")
                if writes.at is not None and writes.count + len(piece) > writes.at:
                    super().write(piece[: writes.at - writes.count])
                    writes.strike()
                writes.pass_by(len(piece))
                return super().write(piece)

        return File(path, mode)


class AtSteps:
    """Does things in the updates that end with some steps.

    Args:
        actions: step to what is done.
    """

    def __init__(self, actions: Mapping[int, Callable[[], object]]):
        self.actions = actions

    def __call__(self) -> None:
        update = Trainer.update

        def disturbed(trainer: Trainer, *given: Any) -> Update:
            self.actions.get(trainer.progress.step + 1, lambda: None)()
            return update(trainer, *given)

        Trainer.update = disturbed


class Ruin:
    """Spoils all weights after the update that ends with a step.

    Args:
        step: of the update.
        factor: of the weights.
    """

    def __init__(self, step: int, factor: float):
        self.step, self.factor = step, factor

    @torch.no_grad()
    def _spoil(self, trainer: Trainer) -> None:
        for parameter in trainer.model.parameters():
            parameter.mul_(self.factor)

    def __call__(self) -> None:
        update = Trainer.update

        def spoiling(trainer: Trainer, *given: Any) -> Update:
            made = update(trainer, *given)
            if trainer.progress.step == self.step:
                self._spoil(trainer)
            return made

        Trainer.update = spoiling


def together(*preparations: Callable[[], object]) -> Callable[[], None]:
    """All of these, one after the other."""

    def prepare() -> None:
        for preparation in preparations:
            preparation()

    return prepare


def stopping(step: int) -> AtSteps:
    """SIGTERM comes in the update that ends with this step."""
    return AtSteps({step: lambda: os.kill(os.getpid(), signal.SIGTERM)})


def limit_files(size: int) -> None:
    """No file may become longer than `size` bytes; −1 lifts the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))


ON, OFF, UPDATE = "<answers signals>", "<answers no more>", "<update>"


def noted(number: int) -> str:
    """The mark of a signal that has come."""
    return f"<signal {number}>"


def marks() -> None:
    """Has stdout tell between which updates signals came, and whether they were to be answered."""

    def marked(owner: type, name: str, *, before: Mark = lambda *_: "", after: Mark = lambda *_: "") -> None:
        original = getattr(owner, name)

        def telling(self: Any, *args: Any) -> Any:
            os.write(1, before(*args).encode())
            result = original(self, *args)
            os.write(1, after(*args).encode())
            return result

        setattr(owner, name, telling)

    marked(Signals, "__enter__", after=lambda: ON)
    marked(Signals, "__exit__", before=lambda *_: OFF)
    marked(Signals, "_note", before=lambda number, _: noted(number))
    marked(Trainer, "update", before=lambda *_: UPDATE)
