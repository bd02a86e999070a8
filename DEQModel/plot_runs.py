"""Compare training runs, as a table and as a picture: `python plot_runs.py RUN… --out FILE.png`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runs.comparison import differences, figures
from runs.history import History
from system.errors import UserError
from system.progress import say
from system.script import leave, with_status

PROGRAM = "plot_runs.py"
USUAL_PICTURE = "runs.png"
HOW_TO_DRAW = "no picture: matplotlib is not installed: pip install -r requirements-extra.txt"


class Parser(argparse.ArgumentParser):
    """Reports mistakes as `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def run(argv: Sequence[str]) -> int:
    """Print the table, then draw the picture.

    Raises:
        UserError: a run cannot be read, or the picture that was asked for cannot be made.
    """
    parser = Parser(prog=PROGRAM, description="Compare training runs: a table on the screen, and a picture.")
    parser.add_argument("runs", nargs="*", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--out", metavar="FILE.png", type=Path, help=f"the picture (default: {USUAL_PICTURE})")
    given = parser.parse_args(argv)
    if not given.runs:
        raise UserError("no run to show: pass the folders of some, such as LM-TFM-deq-text/demo")
    if given.out is not None and given.out.suffix.lower() != ".png":
        raise UserError(f"--out {given.out}: the picture is a PNG file: pass a name that ends in .png")
    folders = {folder.resolve(): folder for folder in reversed(given.runs)}
    runs = [History.of(folder) for folder in reversed(folders.values())]
    say(figures(runs))
    if len(runs) > 1:
        say(f"\n{differences(runs)}")
    try:
        from runs.picture import draw
    except ImportError as error:
        if given.out is not None:
            raise UserError(HOW_TO_DRAW) from error
        say(f"\n{HOW_TO_DRAW}")
        return 0
    path = given.out or Path(USUAL_PICTURE)
    draw(runs, path)
    say(f"\npicture: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; the exit status."""
    return with_status(run, sys.argv[1:] if argv is None else argv, PROGRAM)


if __name__ == "__main__":
    give_signals_back()
    leave(main)
