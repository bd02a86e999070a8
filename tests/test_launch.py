"""Several processes of one program: how they are started, told of signals, and ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT

import numpy as np
import pytest
import torch

from system import launch as launching
from system.distributed import World
from system.launch import launch

IMPORTS = Path(launching.__file__).parents[1]
STUBBORN = (signal.SIGTERM, signal.SIGINT)
SCRIPT = """
import os, signal, sys, time
from system.launch import launch

def say(*words):
    os.write(1, (" ".join(words) + chr(10)).encode())

def main(argv):
    came = []
    def note(number, frame):
        came.append(signal.Signals(number).name)
        say(argv[0], *came)
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    say("ready")
    while "SIGTERM" not in came:
        time.sleep(0.05)
    return 143

if __name__ == "__main__":
    sys.exit(launch(main, sys.argv[1:], 2))
"""


def main(argv: Sequence[str]) -> int:
    """What the tests launch: the second process comes to the end that is named, the first one waits for it."""
    world = World.join(cuda=False)
    n = world.sum(np.ones(1))[0]  # and so both are connected: Gloo tells of a process that is lost before
    if argv[0] == "well":
        os.write(1, f"{n:g} {torch.get_num_threads()}\n".encode())
        world.leave()
        return 0
    if world.is_first:
        for number in STUBBORN:  # as in an update that never ends, as the other has gone
            signal.signal(number, lambda number, frame: None)
        time.sleep(60)
    if argv[0] == "mistake":
        print("what was wrong", file=sys.stderr)
        return 2
    if argv[0] == "error":
        raise ValueError("what failed")
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_that_end_well(capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch(main, ["well"], 2) == 0
    out, err = capfd.readouterr()
    (line,) = {*out.splitlines()}
    total, threads = map(int, line.split())
    assert total == 2
    assert 1 <= threads <= max(os.cpu_count() // 2, 1)
    assert err == ""
    assert "RANK" not in os.environ


@pytest.mark.parametrize(
    ("end", "status", "first", "last"),
    [
        ("mistake", 2, "what was wrong", "what was wrong"),
        pytest.param(
            "error", 1, "Traceback (most recent call last):", "ValueError: what failed", marks=pytest.mark.slow
        ),
        pytest.param(
            "death",
            137,
            "process 1 was killed by SIGKILL",
            "process 1 was killed by SIGKILL",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_that_fails_ends_the_others_and_its_error_is_told(end, status, first, last, capfd, monkeypatch):
    monkeypatch.setattr(launching, "GRACE", 0.5)
    start = time.monotonic()
    assert launch(main, [end], 2) == status
    assert time.monotonic() - start < 30
    lines = capfd.readouterr().err.splitlines()
    assert (lines[0], lines[-1]) == (first, last)


def test_each_signal_comes_once_whoever_sends_it(tmp_path):
    """The script is the program that is run: its `main` is found again in the processes."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(IMPORTS)}
    with subprocess.Popen(
        [sys.executable, str(script), "got"],
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    ) as process:
        try:
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            came = "got"
            for number, send in ((signal.SIGUSR1, os.kill), (signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)):
                send(process.pid, number)  # a terminal sends to the whole group
                came += f" {number.name}"
                assert [process.stdout.readline() for _ in range(2)] == [f"{came}\n"] * 2
            assert process.stdout.read() == ""
            assert process.wait(30) == 143
        finally:
            process.kill()


def test_signals_that_were_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with launching._noted_signals() as noted:
            for number in (signal.SIGINT, signal.SIGUSR1):
                os.kill(os.getpid(), number)
        assert list(noted) == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
