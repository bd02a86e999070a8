"""Make one folder of a trained model, to share or to keep: `python export.py RUN OUT`."""

from system.startup import hush_signals

if __name__ == "__main__":
    give_signals_back = hush_signals()  # during the imports

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from config.parser import Parser
from sharing.export import export
from system.errors import UserError
from system.flag import flag
from system.progress import say
from system.script import leave, with_status

PROGRAM = "export.py"


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, and where to."""

    run: str = flag("", "folder of a run, with its best model", positional="run")
    out: str = flag("", "folder to make", positional="out")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; the exit status."""
    return with_status(_run, sys.argv[1:] if argv is None else argv, PROGRAM)


def _run(argv: Sequence[str]) -> int:
    description = "Make one folder of a run's best model: weights, vocabulary, settings, figures and a model card."
    given, _ = Parser(PROGRAM, description, {"what": ExportSettings}).given(argv)
    missing = [name for name in ("run", "out") if given.get(name) is None]
    if missing:
        raise UserError(f"no {missing[0].upper()}: pass the folder of a run, and one to make")
    done = export(PROGRAM, given["run"], given["out"])
    for remark in done.remarks:
        say(remark)
    say(f"exported to {done.folder}")
    return 0


if __name__ == "__main__":
    give_signals_back()
    leave(main)
