"""The runs of a folder as tables: those that differ in their seed alone are one row, with means and spreads."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from synthetic.copy_memory import guessing
from synthetic.published import PUBLISHED
from synthetic.record import Record, model_in_words
from synthetic.scoring import Trial
from synthetic.settings import usual
from system.errors import UserError
from system.figures import duration, power, three_digits
from system.lines import under_each_other

Runs = Sequence[Record]
MISSING = "-"
NAMED_APART = {"task", "model", "depth", "seq_len", "p", "seed", "test_lengths", "test_thresholds"}
MEGABYTE = 1e6


def table(folder: str) -> str:
    """The tables of all runs in a folder.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--table {folder} is no folder: pass the --out of some runs")
    groups = _groups([Record.read(path) for path in sorted(Path(folder).glob("*.json"))])
    if not groups:
        raise UserError(f"--table {folder} holds no runs: pass the --out of some")
    parts = [under_each_other(_columns(groups))]
    if any(len(runs[0].tests) > 1 for runs in groups):
        parts.append("accuracy, loss and solver steps by test length and threshold\n" + _by_threshold(groups))
    return "\n\n".join(parts)


def _groups(records: Runs) -> list[Runs]:
    """Those that differ in their seed alone together, by task and length; worse models first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps({**record.settings, "seed": None}, sort_keys=True), []).append(record)
    return sorted(groups.values(), key=lambda runs: (*_task_of(runs[0]), _mean(runs, lambda run: main_test(run).loss)))


def _task_of(run: Record) -> tuple[str, int, int]:
    settings = run.settings
    return settings["task"], settings["p"] if settings["task"] == "p_hop" else 0, settings["seq_len"]


def main_test(run: Record) -> Trial:
    """The test at the training length and threshold, or the nearest to it that there is."""
    settings = run.settings
    usual_threshold = int(settings["depth"]) if settings["depth"].isdigit() else settings["f_thres"]
    return min(
        [test for test in run.tests if test.p == settings["p"]],
        key=lambda test: (abs(test.length - settings["seq_len"]), abs((test.threshold or 0) - usual_threshold)),
    )


def _columns(groups: Sequence[Runs]) -> list[list[str]]:
    figures: list[tuple[str, Callable[[Runs], str]]] = [
        ("model", lambda runs: _model(runs[0])),
        ("task", lambda runs: _task(runs[0])),
        ("params", lambda runs: three_digits(runs[0].parameters)),
        ("seeds", lambda runs: str(len(runs))),
        ("train loss", lambda runs: _with_spread(runs, lambda run: run.training.loss, power)),
        ("test loss", lambda runs: _with_spread(runs, lambda run: main_test(run).loss, power)),
        ("published", lambda runs: _published(runs[0])),
        ("guess", lambda runs: _guess(runs[0])),
        ("accuracy", lambda runs: _with_spread(runs, lambda run: main_test(run).accuracy, "{:.4f}".format)),
        ("time", lambda runs: duration(_mean(runs, lambda run: run.training.seconds))),
        ("ms/step", lambda runs: f"{1000 * _mean(runs, lambda run: run.training.seconds_a_step):.0f}"),
        ("MB", lambda runs: f"{_mean(runs, lambda run: _peak(run)) / MEGABYTE:.0f}"),
        ("forward", lambda runs: _steps(runs, lambda run: run.training.forward_steps)),
        ("backward", lambda runs: _steps(runs, lambda run: run.training.backward_steps)),
        ("in test", lambda runs: _steps(runs, lambda run: main_test(run).steps)),
    ]
    return [[head, *map(figure, groups)] for head, figure in figures]


def _by_threshold(groups: Sequence[Runs]) -> str:
    thresholds = sorted({test.threshold or 0 for runs in groups for run in runs for test in run.tests})
    lines = [(runs, *at) for runs in groups for at in sorted({(test.p, test.length) for test in runs[0].tests})]
    columns = [
        ["model", *(_model(runs[0]) for runs, _, _ in lines)],
        ["task", *(_task(runs[0]) for runs, _, _ in lines)],
        ["tested", *(f"p {p} T {length}" if _task_of(runs[0])[1] else f"T {length}" for runs, p, length in lines)],
    ]
    for threshold in thresholds:
        head = str(threshold) if threshold else "all"
        columns.append([head, *(_cell(runs, (p, length, threshold)) for runs, p, length in lines)])
    return under_each_other(columns)


def _cell(runs: Runs, at: tuple[int, int, int]) -> str:
    tests = [test for run in runs for test in run.tests if (test.p, test.length, test.threshold or 0) == at]
    if not tests:
        return MISSING
    accuracy, loss = (statistics.fmean(getattr(test, name) for test in tests) for name in ("accuracy", "loss"))
    steps = [test.steps for test in tests if test.steps is not None]
    return f"{accuracy:.4f} {power(loss)}" + (f" ({statistics.fmean(steps):.1f})" if steps else "")


def _model(run: Record) -> str:
    """The model, and the settings that are not the usual ones."""
    settings = json.loads(json.dumps(usual(run.settings["task"], run.settings["model"])))
    others = [
        f"{name} {_shown(value)}"
        for name, value in run.settings.items()
        if name not in NAMED_APART and value != settings.get(name)
    ]
    return ", ".join([model_in_words(run.settings), *others])


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _task(run: Record) -> str:
    name, p, length = _task_of(run)
    return f"{name} {f'p {p} ' if p else ''}T {length}"


def _published(run: Record) -> str:
    settings = run.settings
    loss = PUBLISHED.get((settings["task"], settings["seq_len"], settings["model"]))
    return MISSING if loss is None else power(loss)


def _guess(run: Record) -> str:
    return power(guessing(run.settings["seq_len"])) if run.settings["task"] == "copy_memory" else MISSING


def _peak(run: Record) -> int:
    """Bytes, of the device where it was not the host."""
    return run.peak_memory.get("device", run.peak_memory["host"])


def _steps(runs: Runs, figure: Callable[[Record], float | None]) -> str:
    values = [value for value in map(figure, runs) if value is not None]
    return f"{statistics.fmean(values):.1f}" if values else MISSING


def _with_spread(runs: Runs, figure: Callable[[Record], float], write: Callable[[float], str]) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    values = list(map(figure, runs))
    spread = f" ± {write(statistics.stdev(values))}" if len(values) > 1 else ""
    return write(statistics.fmean(values)) + spread


def _mean(runs: Runs, figure: Callable[[Record], float]) -> float:
    return statistics.fmean(map(figure, runs))
