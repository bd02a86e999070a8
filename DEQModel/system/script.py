"""How a program ends: an exit status, and one line for a mistake."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from system.distributed import brief, lost_contact
from system.errors import UserError
from system.launch import leave_with
from system.progress import LostScreenError, show_any_text
from system.signals import Stopped

SIGNALLED = 128  # to which a shell adds a signal's number for an exit status
INTERRUPTED = SIGNALLED + 2
OF_ALL = 10  # seconds: of several processes with the same mistake the first one tells
OF_ANOTHER = 15  # seconds: the process that failed tells first


def with_status(run: Callable[[Sequence[str]], int], argv: Sequence[str], program: str) -> int:
    """Run a program.

    Args:
        run: gives its exit status, or raises.
        argv: its arguments.
        program: its name, before a message.

    Returns:
        The exit status: the program's own, 1 for a lost screen or another process, 2 for a mistake of the user, 128 +
        its number for a signal.
    """
    try:
        return run(argv)
    except UserError as error:
        return _explained(program, f"error: {error}", 2, wait=OF_ALL if _is_another() else 0)
    except LostScreenError as error:
        return _explained(program, str(error), 1)
    except Stopped as stopped:
        return _explained(program, str(stopped), stopped.status)
    except KeyboardInterrupt:
        return _explained(program, "interrupted", INTERRUPTED)
    except Exception as error:
        if not lost_contact(error):
            raise
        lost = f"another process is gone or hangs; its own message says why ({brief(error)})"
        return _explained(program, lost, 1, wait=OF_ANOTHER)


def leave(main: Callable[..., int]) -> NoReturn:
    """Run a script's `main` and end the process with its status."""
    show_any_text()
    if "WORLD_SIZE" in os.environ:
        leave_with(main, sys.argv[1:])
    sys.exit(main())


def _is_another() -> bool:
    """Whether this is one of several processes, but not the first, which speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def _explained(program: str, message: str, status: int, *, wait: float = 0) -> int:
    """Print the line that a program ends with, of a signal for all processes; the exit status.

    Args:
        wait: seconds before that, in which another process has its say; the launcher ends this one then.
    """
    time.sleep(wait)
    if status <= SIGNALLED or not _is_another():
        print(f"{program}: {message}", file=sys.stderr)
    return status
