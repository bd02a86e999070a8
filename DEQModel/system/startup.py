"""Signals while a program's imports, which take seconds, are under way. It imports nothing that takes long itself."""

import signal
from collections.abc import Callable
from typing import Any


def hush_signals() -> Callable[[], None]:
    """Have Ctrl-C end the process without a traceback, and SIGUSR1 not at all; what puts Ctrl-C back as it was."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, _ignored)  # asks for a checkpoint: outside training there is none
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return lambda: signal.signal(signal.SIGINT, on_interrupt)


def _ignored(number: int, frame: Any) -> None:
    pass
