"""Runs side by side, as tables for people."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.measure import BITS_PER_CHARACTER
from data.vocabulary import Unit
from runs.history import History
from system.figures import power, three_digits
from system.lines import WIDTH, under_each_other

OF_NO_INTEREST = {"name", "work_dir", "restart", "restart_dir"}  # settings that tell where a run is
MISSING = "-"
whole, tenths, hundredths, thousandths = "{:,.0f}".format, "{:.1f}".format, "{:.2f}".format, "{:.3f}".format


@dataclass(frozen=True)
class Column:
    """A figure of each run; columns of a group stand under one word. With a `unit` it is for runs on such tokens."""

    group: str
    head: str
    figure: Callable[[History], float | None]
    write: Callable[[float], str]
    unit: Unit | None = None

    def of(self, runs: Sequence[History]) -> list[str]:
        """Its cells, from the top."""
        figures = [self.figure(run) for run in runs]
        return [self.group, self.head, *(MISSING if value is None else self.write(value) for value in figures)]


COLUMNS = (
    Column("", "params", lambda run: run.n_parameters, three_digits),
    Column("", "updates", lambda run: run.n_updates, whole),
    Column("", "seconds", lambda run: run.training_seconds, whole),
    Column("", "tokens/s", lambda run: run.speed, whole),
    Column("valid ppl", "best", lambda run: run.best_perplexity, hundredths),
    Column("", "at step", lambda run: run.best_step, whole),
    Column("test", "ppl", lambda run: run.result("test", "perplexity"), hundredths),
    Column("valid bpc", "best", lambda run: run.best_bits, thousandths, "character"),
    Column("test", "bpc", lambda run: run.result("test", BITS_PER_CHARACTER.key), thousandths, "character"),
    Column("forward", "steps", lambda run: run.forward_steps.last, tenths),
    Column("", "residual", lambda run: run.forward_residual.last, power),
    Column("backward", "steps", lambda run: run.backward_steps.last, tenths),
    Column("", "residual", lambda run: run.backward_residual.last, power),
)


def names_of(runs: Sequence[History]) -> list[str]:
    """A name for each run: that of its folder, with the folders above it where several have the same."""
    parts = [run.folder.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts)) + 1):
        names = [os.path.join(*some[-n:]) for some in parts]
        if len(set(names)) == len(names):
            break
    return names


def figures(runs: Sequence[History]) -> str:
    """Size, length, speed, perplexities and solves of each run, a line a run; the solves' are of the last log line.

    Where there are runs on characters, bits per character stand beside the perplexities.
    """
    columns = [column for column in COLUMNS if column.unit in (None, *(run.unit for run in runs))]
    return under_each_other([["", "run", *names_of(runs)], *(column.of(runs) for column in columns)])


def differences(runs: Sequence[History]) -> str:
    """The settings that are not the same in all runs: a line a setting and a column a run, or turned if too wide."""
    names = sorted({name for run in runs for name in run.settings} - OF_NO_INTEREST)
    differing = [name for name in names if len({_setting(run, name) for run in runs}) > 1]
    if not differing:
        return "all settings are the same"
    columns = [[label, *(_setting(run, n) for n in differing)] for label, run in zip(names_of(runs), runs, strict=True)]
    columns.insert(0, ["setting", *differing])
    tables = [under_each_other(columns), under_each_other(list(zip(*columns, strict=True)))]
    widths = [max(map(len, text.splitlines())) for text in tables]
    return tables[1] if widths[1] < widths[0] > WIDTH else tables[0]


def _setting(run: History, name: str) -> str:
    value = run.settings.get(name, MISSING)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
