"""Progress on a terminal: a bar where there is one, lines of text everywhere."""

import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from system.figures import duration

HEAD = "{desc} {percentage:3.0f}% {n_fmt}/{total_fmt} {left} left"
LEAST_BAR = len(" |=|")
USUAL_SIZE = {"ncols": 80, "nrows": 24}


class ProgressBar(tqdm):
    """What matters comes first; where the terminal is narrow the bar gives way, then the last figures."""

    figures: tuple[str, ...] = ()

    def show(self, figures: Iterable[str]) -> None:
        """Show these figures from now on, as many of them as the terminal has room for."""
        self.figures = tuple(figures)
        self.refresh()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a bar is drawn from."""
        known = dict(super().format_dict)
        rate, n = known["rate"], known["n"]
        if not rate and known["elapsed"]:
            rate = (n - known["initial"]) / known["elapsed"]
        known["left"] = duration((known["total"] - n) / rate if rate else float("inf"))
        head = self.format_meter(**known | {"bar_format": HEAD, "ncols": None})
        return known | {"bar_format": self._fitting(head, known["ncols"] or USUAL_SIZE["ncols"]) + " |{bar}|"}

    def _fitting(self, head: str, columns: int) -> str:
        text = head
        for figure in self.figures:
            if len(f"{text} {figure}") + LEAST_BAR > columns:
                break
            text += f" {figure}"
        return text


class LostScreenError(Exception):
    """Standard output is closed, full, or read by nobody any more."""


def progress_bar(
    total: int, what: str, *, unit: str = "", initial: int = 0, keep: bool = False, hidden: bool = False
) -> ProgressBar:
    """A bar on stderr over `total` steps, silent where stderr is no terminal.

    Args:
        total: number of the last step.
        what: word in front of the bar.
        unit: "B" counts in kB, MB, …
        initial: number of the first step.
        keep: leave the full bar on the screen.
        hidden: show nothing at all.
    """
    size = {"dynamic_ncols": True} if _size_is_known() else USUAL_SIZE
    hide = hidden or not is_terminal(sys.stderr)
    return ProgressBar(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=bool(unit),
        initial=initial,
        leave=keep,
        disable=hide,
        **size,
    )


def is_terminal(stream: object) -> bool:
    """Whether somebody sees what is written to a stream; a closed one is None."""
    return stream is not None and stream.isatty()


def _size_is_known() -> bool:
    """Some terminals, of containers and over serial lines, have 0 rows and columns; tqdm would draw nothing there."""
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (AttributeError, OSError, ValueError):
        return False


def show_any_text() -> None:
    """Have a terminal that lacks some letters show those as codes: they would end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def has_bar() -> bool:
    """Whether a reader of stdout sees the bar too."""
    return is_terminal(sys.stdout) and is_terminal(sys.stderr)


def say(text: str, end: str = "\n") -> None:
    """Print a line, above the bars that are on the screen; with another `end` a part of one.

    Raises:
        LostScreenError: it cannot be written. All that is said later goes nowhere, without another error.
    """
    try:
        if sys.stdout is None:
            raise OSError("closed")
        tqdm.write(text, end=end)
        sys.stdout.flush()
    except OSError as error:
        _speak_to_nobody()
        raise LostScreenError(f"standard output is lost ({error.strerror or error})") from error


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def _speak_to_nobody() -> None:
    if sys.stdout is None:
        sys.stdout = _Nowhere()
    else:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what is buffered still goes there when the process ends
