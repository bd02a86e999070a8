"""The commands of README.md are what the programs take, and its SLURM script does what the text says."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from tiny_run import COMMAND

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
FAKES = {
    "srun": 'exec "$@"',
    "scontrol": 'case $1 in show) echo node1;; requeue) echo "$2" >>requeued;; esac',
    # what training does before it is over, and what it does when it is asked to stop
    "torchrun": 'printf "%s\\n" "$@" >arguments; trap "$ASKED" TERM; eval "$DOES"; exit',
}
SAVE = "mkdir -p runs/deq-wt103/big; echo new >runs/deq-wt103/big/checkpoint.pt;"
TIME_IS_UP = "kill -USR1 $PPID; for _ in {1..500}; do sleep 0.02; done"


@pytest.fixture
def slurm(tmp_path):
    """Runs the README's script as a job, with what training does and what it does at SIGTERM; status, requeued."""
    (script,) = [block for block in BLOCKS if "#SBATCH" in block]
    (tmp_path / "job").write_text(script.replace("/shared/", f"{tmp_path}/"))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in FAKES.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "17",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }

    def job(does: str, asked: str = "exit 1") -> tuple[int, bool]:
        requeued = tmp_path / "requeued"
        requeued.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "job"],
            cwd=tmp_path,
            env=environment | {"DOES": does, "ASKED": asked},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stderr == ""
        return done.returncode, requeued.exists()

    return job


@pytest.mark.parametrize(
    ("does", "asked", "expected"),
    [
        ("exit 0", "", (0, False)),
        (f"{SAVE} exit 2", "", (2, False)),  # a wrong flag, divergence
        (f"{SAVE} exit 143", "", (143, False)),  # stopped by somebody else
        (TIME_IS_UP, f"{SAVE} exit 1", (1, True)),
        (TIME_IS_UP, f"{SAVE} exit 143", (143, True)),
        (f"{SAVE} {TIME_IS_UP}", "exit 1", (1, True)),
        (TIME_IS_UP, f"{SAVE} exit 0", (0, False)),  # finished at the last moment
        (TIME_IS_UP, "exit 1", (1, False)),
    ],
)
def test_a_slurm_job_is_requeued_only_where_it_can_go_on(slurm, tmp_path, does, asked, expected):
    for _ in range(2):  # also where there is a checkpoint of before
        assert slurm(does, asked) == expected
        old = tmp_path / "runs" / "deq-wt103" / "big" / "checkpoint.pt"
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_text("old")
        os.utime(old, (1e9, 1e9))


def test_a_slurm_job_goes_on_with_its_newest_run(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def settings():
        _, program, words = (tmp_path / "arguments").read_text().partition("DEQModel/train_transformer.py\n")
        assert program
        return COMMAND.parse(words.splitlines())

    slurm("exit 0")
    assert settings().restart is False
    runs = tmp_path / "runs" / "deq-wt103"
    for age, name in enumerate(("bigger", "big-2", "big")):
        (runs / name).mkdir(parents=True)
        (runs / name / "checkpoint.pt").touch()
        os.utime(runs / name / "checkpoint.pt", (1e9 - age, 1e9 - age))
    slurm("exit 0")
    assert settings().restart
    assert settings().restart_dir == str(runs / "big-2")
