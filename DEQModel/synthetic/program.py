"""The program that trains models on synthetic tasks, and shows how they did."""

import dataclasses
import sys
from collections.abc import Sequence

import torch

from config.checks import check_needs
from config.parser import Parser, check_ranges
from config.words import mistakes_in_flags
from models.size import Size
from synthetic.models import build
from synthetic.record import Record, check_place, name_of, place_of, recorded
from synthetic.scoring import Trial
from synthetic.settings import GROUPS, Settings, completed, of_no_use, usual, without
from synthetic.table import table
from synthetic.tasks import TASKS
from synthetic.training import Training, training_depth
from synthetic.trials import check_lengths, trials
from system.errors import UserError
from system.figures import duration, power
from system.flag import flags_of
from system.peak_memory import peak_memory
from system.progress import say
from system.script import with_status

PROGRAM = "train_synthetic.py"
DESCRIPTION = (
    "Train a model on a synthetic task, whose data are made from a seed, and test it. Defaults of widths and updates "
    "depend on task and model (synthetic/recipes.py). A run whose figures are in --out already is not repeated."
)
FLAG_NAMES = {name: known.option(name) for name, known in flags_of(Settings).items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; the exit status."""
    return with_status(run, sys.argv[1:] if argv is None else argv, PROGRAM)


def run(argv: Sequence[str]) -> int:
    """Train and test one run, or print the table of a folder.

    Raises:
        UserError: the command line is wrong, or a file cannot be read or written.
    """
    given, _ = Parser(PROGRAM, DESCRIPTION, GROUPS).given(argv)
    settings = completed(given)
    if settings.table:
        say(table(settings.table))
        return 0
    check(settings)
    useless = of_no_use(settings)
    for name, need in useless.items():
        say(f"note: {FLAG_NAMES[name]} {getattr(settings, name)} has no effect without {need.what}")
    settings = without(settings, useless)  # so that the run is the same one as without them
    place = place_of(settings)
    if place.exists():
        say(f"{name_of(settings)}: is there already: {place}")
        record = Record.read(place)
    else:
        record = _finished(settings)
        record.write(place)
    for test in record.tests:
        say(f"{name_of(settings)}: {in_words(test, settings.task)}")
    say(f"figures: {place}")
    return 0


def check(settings: Settings) -> None:
    """Refuse settings that make no sense, alone or together.

    Raises:
        UserError: one line with the flag, its value and the remedy.
    """
    flags = flags_of(settings)
    check_ranges(dataclasses.asdict(settings), flags)
    check_needs(settings, flags, usual(settings.task, settings.model))
    with mistakes_in_flags(FLAG_NAMES):
        training_depth(settings)
        for stage in settings.stages:
            check_lengths(stage)
    check_place(settings.out)
    if settings.cuda and not torch.cuda.is_available():
        raise UserError("--cuda: PyTorch sees no GPU here; leave --cuda out to run on the CPU")


def _finished(settings: Settings) -> Record:
    """Train and test."""
    device = torch.device("cuda" if settings.cuda else "cpu")
    torch.manual_seed(settings.seed)
    name = name_of(settings)
    model = build(settings, TASKS[settings.task](settings).n_token).to(device)
    size = Size.of(model)
    say(f"{name}: {size.whole:,} parameters, {settings.n_updates} updates")
    training, figures = Training(model, settings), []
    for i, stage in enumerate(settings.stages, start=1):
        training.run(stage, name_of(stage))
        if settings.test_stages or i == len(settings.stages):
            figures += trials(model, stage)
    done = training.figures()
    say(
        f"{name}: trained in {duration(done.seconds)}, {1000 * done.seconds_a_step:.0f} ms a step, "
        f"loss {power(done.loss)}, accuracy {done.accuracy:.4f}"
    )
    return Record(recorded(settings), size.whole, done, tuple(figures), peak_memory(device), size.body)


def in_words(test: Trial, task: str) -> str:
    """A test's figures."""
    threshold = "" if test.threshold is None else f" threshold {test.threshold}"
    steps = "" if test.steps is None else f", {test.steps:.1f} solver steps, residual {power(test.residual)}"
    hops = f" p {test.p}" if task == "p_hop" else ""
    return f"test{hops} T {test.length}{threshold}: loss {power(test.loss)}, accuracy {test.accuracy:.4f}{steps}"
