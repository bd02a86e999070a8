"""Progress on terminals of all kinds, and screens that are lost."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
from reports import solve_report
from tiny_run import COURSE, LENGTHS, MODEL

import train_transformer
from data.measure import PERPLEXITY
from evaluation.report import bar_figures
from evaluation.solve_statistics import SolveStatistics
from system.progress import LostScreenError, has_bar, progress_bar, say, show_any_text
from training.log_lines import for_bar
from training.telemetry import Window

SCRIPT = Path(__file__).parent.parent / "DEQModel" / "train_transformer.py"
SCREENS = ["closed", "full", "broken pipe"]


def solved(steps: int) -> SolveStatistics:
    solves = SolveStatistics()
    solves.add(solve_report(n_steps=steps, residual=1.2e-3))
    return solves


@contextlib.contextmanager
def terminal(rows: int, columns: int) -> Iterator[Callable[[], list[str]]]:
    """Standard output and error are a terminal of this size; gives what it has been shown, drawing by drawing."""
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    shown, all_of_it = bytearray(), b"\x1b[0m"

    def read() -> None:
        while not shown.endswith(all_of_it):
            shown.extend(os.read(outside, 4096))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(inside, "w") as stream, pytest.MonkeyPatch.context() as patch:

        def seen() -> list[str]:
            stream.write(all_of_it.decode())
            stream.flush()
            reader.join(10)
            lines = re.split(r"[\r\n]+", shown.removesuffix(all_of_it).decode())
            return [line.rstrip() for line in lines if line.strip()]

        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield seen
    os.close(outside)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (24, 0), (24, 80)])
def test_where_log_lines_are_left_off_there_is_a_bar(rows, columns):
    with terminal(rows, columns) as seen:
        assert has_bar()
        with progress_bar(2, "some work") as bar:
            bar.update()
        assert seen()[0].startswith("some work   0% 0/2 ? left |")


SOLVED = {"forward": solved(25), "backward": solved(35)}
LONG_RUN = Window(lr=2.5e-4, updates=10, tokens=987654, nll=987654 * 10.8, seconds=10.0, norms=3.0, **SOLVED)
FIGURES = "train  12% 36001/300000 3.1d left loss 10.8 ppl 49.0k 98.8k/s f 25.0 1e-3"


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (40, "train  12% 36001/300000 3.1d left |"),
        (60, "train  12% 36001/300000 3.1d left loss 10.8 ppl 49.0k |"),
        (80, f"{FIGURES} |"),
        (120, f"{FIGURES} b 35.0 1e-3 lr 2.5e-4 grad 0.3 |"),
    ],
)
def test_the_bar_of_training_gives_way_to_whole_figures(columns, wanted, monkeypatch):
    with terminal(24, columns) as seen, progress_bar(300000, "train", initial=36000) as bar:
        bar.update()
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + 1)
        bar._ema_dn, bar._ema_dt = (lambda: 1), (lambda: 1)  # an update a second
        bar.show(for_bar(LONG_RUN))
        line = seen()[-1]
    assert line.startswith(wanted)
    assert line.endswith("|")
    assert len(line) < columns


def test_the_bar_of_an_evaluation_on_80_columns():
    with terminal(24, 80) as seen, progress_bar(1364, "valid", initial=160) as bar:
        bar.update()
        bar.show(bar_figures(7.975, PERPLEXITY, 3743.0, solved(30)))
        assert re.match(r"valid  12% 161/1364 \S+ left loss 7.97 ppl 2.91k 3.74k/s solver 30.0 1e-3 \|.*\|", seen()[-1])


def test_bars_of_bytes_count_in_larger_units():
    with terminal(24, 80) as seen, progress_bar(543_000_000, "encoding", unit="B") as bar:
        bar.update(12_300_000)
        bar.refresh()
        assert re.match(r"encoding   2% 12.3M/543M \S+ left \|", seen()[-1])


@pytest.mark.parametrize("columns", [80, 120])
def test_a_run_on_a_terminal(columns, place, tmp_path):
    command = f"--data {place}/corpus --dataset text --work_dir {tmp_path}/ {MODEL} {LENGTHS} {COURSE} --max_step 30"
    with terminal(50, columns) as seen:
        assert train_transformer.main(command.split()) == 0
        lines = seen()
    bars = [line for line in lines if line.startswith("train ")]
    assert bars[0].startswith("train   0% 0/30 ? left |")
    assert any(re.match(r"train +\d+% \d+/30 \S+ left loss \S+ ppl \S+ +\S+/s .*\|", line) for line in bars)
    assert max(map(len, bars)) < columns
    assert any(" step 30 valid loss " in line for line in lines)
    assert not any(" step 2 " in line for line in lines), "the bar shows what the lines of updates would"


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
@pytest.mark.parametrize("mode", ["--debug", "--debug --eval --load {weights}"])
def test_a_run_without_a_log_ends_with_the_screen(kind, mode, place, weights_file, capsys):
    mode = mode.replace("{weights}", weights_file)
    command = f"--data {place}/corpus --dataset text --work_dir {place}/dark {MODEL} {LENGTHS} {COURSE} {mode}"
    with screen(kind) as lost, contextlib.redirect_stdout(lost):
        assert train_transformer.main(command.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_transformer.py: standard output is lost (")


def test_a_lost_screen_leaves_no_traceback_at_the_end_of_the_process(place, weights_file):
    command = f"{SCRIPT} --data {place}/corpus --dataset text {MODEL} {LENGTHS} --debug --eval --load {weights_file}"
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
