"""Progress on a terminal: a bar where there is one, lines of text everywhere."""

import sys

from tqdm import tqdm

BAR = "{l_bar}{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"  # short: the figures need the room


def progress_bar(total: int, what: str, *, initial: int = 0, keep: bool = False) -> tqdm:
    """A bar on stderr over `total` steps, silent where stderr is no terminal.

    Args:
        total: number of the last step.
        what: word in front of the bar.
        initial: number of the first step.
        keep: leave the full bar on the screen.
    """
    return tqdm(total=total, desc=what, initial=initial, leave=keep, disable=None, dynamic_ncols=True, bar_format=BAR)


def has_bar() -> bool:
    """Whether a reader of stdout sees the bar too."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def say(text: str) -> None:
    """Print a line, above the bars that are on the screen."""
    tqdm.write(text)
