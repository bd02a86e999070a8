"""Progress on terminals of all kinds, and screens that are lost."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from reports import solve_report
from tiny_run import COURSE, LENGTHS, MODEL
from tqdm import tqdm

import train_transformer
from evaluation.evaluation import bar_text
from evaluation.solve_statistics import SolveStatistics
from system.progress import BAR, LostScreenError, has_bar, progress_bar, say, show_any_text
from training.telemetry import SinceLastLog

SCRIPT = Path(__file__).parent.parent / "DEQModel" / "train_transformer.py"
SCREENS = ["closed", "full", "broken pipe"]


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (24, 0), (24, 80)])
def test_where_log_lines_are_left_off_there_is_a_bar(rows, columns, monkeypatch):
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with open(inside, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        assert has_bar()
        with progress_bar(2, "some work") as bar:
            bar.update()
        shown = os.read(outside, 10000).decode()
        monkeypatch.undo()
    os.close(outside)
    assert "some work 0/2" in shown
    assert "0%|" in shown


def solved(steps: int) -> SolveStatistics:
    solves = SolveStatistics()
    solves.add(solve_report(n_steps=steps, residual=1.2e-3))
    return solves


def shown(text: str, what: str, total: int) -> str:
    """The bar of a run that will take another 89 hours, on 80 columns."""
    n = total * 12 // 100
    return tqdm.format_meter(
        n, total, elapsed=12 * 3600, ncols=80, prefix=what, postfix=text, bar_format=BAR, rate=n / (12 * 3600)
    )


def test_the_figures_of_training_fit_in_80_columns():
    solves = {"forward": solved(25), "backward": solved(35)}
    window = SinceLastLog(updates=1, tokens=98765, nll=98765 * 10.8, seconds=1.0, **solves)
    assert shown(window.brief(), "train", 300000).startswith(
        "train 36000/300000 88:00:00, loss 10.800 ppl 49021 98.8k tok/s f 25.0 to 1e-03"
    )


def test_the_figures_of_an_evaluation_fit_in_80_columns():
    text = bar_text(7.975, 3743.0, solver=solved(30))
    assert "loss 7.975 ppl 2907.4 3.74k tok/s solver 30.0 to 1e-03" in shown(text, "valid", 1364)


@contextlib.contextmanager
def screen(kind: str) -> Iterator[TextIO | None]:
    """A standard output that cannot be written to."""
    if kind == "closed":
        yield None
        return
    if kind == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    with open(target, "w") as stream:
        yield stream


@pytest.mark.parametrize("kind", SCREENS)
def test_a_lost_screen_is_reported_once(kind):
    with screen(kind) as lost, contextlib.redirect_stdout(lost):
        with pytest.raises(LostScreenError, match="standard output is lost"):
            say("first")
        say("second")


@pytest.mark.parametrize("kind", SCREENS)
def test_a_run_with_a_log_goes_on_without_a_screen(kind, place, tmp_path):
    command = f"--data {place}/corpus --dataset text --work_dir {tmp_path}/ {MODEL} {LENGTHS} {COURSE} --name dark"
    with screen(kind) as lost, contextlib.redirect_stdout(lost):
        assert train_transformer.main(command.split()) == 0
    folder = tmp_path / "deq-text" / "dark"
    assert (folder / "results.json").is_file()
    log = (folder / "log.txt").read_text()
    assert log.count("standard output is lost") == 1
    assert "the best model on valid" in log


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("mode", ["--debug", "--eval --load {weights}"])
def test_a_run_without_a_log_ends_with_the_screen(kind, mode, place, weights_file, capsys):
    mode = mode.replace("{weights}", weights_file)
    command = f"--data {place}/corpus --dataset text --work_dir {place}/dark {MODEL} {LENGTHS} {COURSE} {mode}"
    with screen(kind) as lost, contextlib.redirect_stdout(lost):
        assert train_transformer.main(command.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_transformer.py: standard output is lost (")


def test_a_lost_screen_leaves_no_traceback_at_the_end_of_the_process(place, weights_file):
    command = f"{SCRIPT} --data {place}/corpus --dataset text {MODEL} {LENGTHS} --eval --load {weights_file}"
    with screen("full") as lost:
        done = subprocess.run(
            [sys.executable, *command.split()],
            stdout=lost,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "train_transformer.py: standard output is lost (No space left on device)\n"


def test_letters_that_a_terminal_lacks_are_shown_as_codes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show_any_text()
    say("run folder: /tmp/\u00fc")
    assert stream.buffer.getvalue() == b"run folder: /tmp/\\xfc\n"
