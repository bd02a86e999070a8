"""A process of several is killed: the others end with it, its end is told first, and the checkpoint goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_run import COURSE, LENGTHS, MODEL, call

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "DEQModel" / "train_transformer.py"
LAUNCHER = (
    "import sys, train_transformer as t; from system.launch import launch; sys.exit(launch(t.main, sys.argv[1:], 2))"
)
STARTS = {
    "launch": [sys.executable, "-c", LAUNCHER],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)],
}


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", ["launch", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_the_others_end_and_the_run_can_go_on(start, victim, place, tmp_path):
    flags = (
        f"--data {place}/corpus --dataset text --work_dir {tmp_path}/ {MODEL} {LENGTHS} {COURSE} --name killed "
        "--max_step 100000 --eval-interval 100000 --save_interval 5"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "DEQModel")}
    folder, err = tmp_path / "deq-text" / "killed", tmp_path / "err"
    with (
        open(err, "w") as stderr,
        subprocess.Popen(
            [*STARTS[start], *flags.split()], env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        try:
            wait_for(folder / "checkpoint.previous.pt")
            members = members_of(process.pid)
            (first,) = (pid for pid in members if has_open(pid, folder / "log.txt"))
            (other,) = members - {first}
            os.kill((first, other)[victim], signal.SIGKILL)
            killed = time.monotonic()
            status = process.wait(60)
            assert time.monotonic() - killed < 60
        finally:
            process.kill()
    assert status == (137 if start == "launch" else 1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)
    told = err.read_text().removeprefix("encoding 0.0 MB of text\n")
    if start == "launch":
        assert told == f"process {victim} was killed by SIGKILL\n"
    else:
        assert "Traceback" not in told.partition("exitcode: -9")[0], "its end comes first"
    last = torch.load(folder / "checkpoint.pt", weights_only=True)["step"] + 2
    assert call(f"--restart --restart_dir {folder} --max_step {last}").status == 0


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.05)


def members_of(pid: int) -> set[int]:
    """The two processes that train, children of the one that started them."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return {int(child) for child, args in lines if "spawn_main" in args or str(SCRIPT) in args}


def has_open(pid: int, path: Path) -> bool:
    """Whether a process writes a file, as the first one alone does."""
    return any(os.path.realpath(link) == os.path.realpath(path) for link in Path(f"/proc/{pid}/fd").iterdir())
