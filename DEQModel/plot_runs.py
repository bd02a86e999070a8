"""Compare training runs, as a table and as a picture: `python plot_runs.py RUN… --out FILE.png`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.parser import Parser
from runs.comparison import differences, figures
from runs.history import History
from system.errors import UserError
from system.flag import flag
from system.progress import say
from system.script import leave, with_status

PROGRAM = "plot_runs.py"
USUAL_PICTURE = "runs.png"
HOW_TO_DRAW = "no picture: matplotlib is not installed: pip install -r requirements-extra.txt"


@dataclass(frozen=True)
class PlotSettings:
    """Which runs are compared, and where the picture goes."""

    runs: tuple[str, ...] = flag((), "the folders of runs", several=True, positional="run ...")
    out: str = flag(USUAL_PICTURE, "the picture, a PNG file", is_place=True)


def run(argv: Sequence[str]) -> int:
    """Print the table, then draw the picture.

    Raises:
        UserError: a run cannot be read, or the picture that was asked for cannot be made.
    """
    description = "Compare training runs: a table on the screen, and a picture."
    given, _ = Parser(PROGRAM, description, {"what": PlotSettings}).given(argv)
    if not given.get("runs"):
        raise UserError("no run to show: pass the folders of some, such as LM-TFM-deq-text/demo")
    path = Path(given.get("out", USUAL_PICTURE))
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path}: the picture is a PNG file: pass a name that ends in .png")
    folders = {folder.resolve(): folder for folder in map(Path, reversed(given["runs"]))}
    runs = [History.of(folder) for folder in reversed(folders.values())]
    say(figures(runs))
    if len(runs) > 1:
        say(f"\n{differences(runs)}")
    try:
        from runs.picture import draw
    except ImportError as error:
        if "out" in given:
            raise UserError(HOW_TO_DRAW) from error
        say(f"\n{HOW_TO_DRAW}")
        return 0
    draw(runs, path)
    say(f"\npicture: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; the exit status."""
    return with_status(run, sys.argv[1:] if argv is None else argv, PROGRAM)


if __name__ == "__main__":
    give_signals_back()
    leave(main)
