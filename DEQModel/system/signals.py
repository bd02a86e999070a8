"""Signals that ask a training run to save, or to save and stop; it answers between two updates."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from system.distributed import World

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the first one counts where several have come
SAVES = (signal.SIGUSR1,)  # sent by clusters some time before they take a job's machine away


class Stopped(Exception):
    """A signal has ended the run."""

    def __init__(self, number: int):
        self.number = number
        super().__init__("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")

    @property
    def status(self) -> int:
        """The exit status that shells give a program which a signal has ended."""
        return 128 + self.number


class Signals:
    """While entered, notes the signals that come; those that were ignored before stay ignored.

    A second SIGINT does not wait for the update's end.
    """

    def __init__(self) -> None:
        self._asked = np.zeros(len(STOPS) + len(SAVES))
        self._raises: Callable[[int, bool], bool] = _second_interrupt
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # the only one that may
            for number in (*STOPS, *SAVES):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        place = (*STOPS, *SAVES).index(number)
        again = bool(self._asked[place])
        self._asked[place] = 1
        if self._raises(number, again):
            raise Stopped(number)

    def asked(self, world: World) -> tuple[bool, int | None]:
        """What any process was asked for since the last call: whether to save, and the signal that ends the run."""
        mine, self._asked = self._asked, np.zeros_like(self._asked)
        counts = world.sum(mine)
        stops = [number for number, count in zip(STOPS, counts, strict=False) if count]
        return bool(counts.any()), stops[0] if stops else None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, nothing would be lost: a signal that ends the run does so immediately.

        Raises:
            Stopped: a signal ends the run, or did so since the last answer.
        """
        with self._raising(lambda number, again: number in STOPS):
            for number, noted in zip(STOPS, self._asked, strict=False):
                if noted:
                    raise Stopped(number)
            yield

    def later(self) -> AbstractContextManager[None]:
        """Inside, a file is written: no signal may cut in, as PyTorch aborts where an exception passes its writer."""
        return self._raising(lambda number, again: False)

    @contextmanager
    def _raising(self, when: Callable[[int, bool], bool]) -> Iterator[None]:
        before, self._raises = self._raises, when
        try:
            yield
        finally:
            self._raises = before


def _second_interrupt(number: int, again: bool) -> bool:
    return again and number == signal.SIGINT
