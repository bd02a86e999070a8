"""The shell scripts, as a user calls them, and what they pass on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = (
    "run_demo.sh",
    "run_tests.sh",
    "run_wt103_deq_transformer.sh",
    "run_ptb_deq_transformer.sh",
    "run_wt103_deq_trellisnet.sh",
    "run_wt103_torchdeq_lm.sh",
    "run_ptb_deq_trellisnet.sh",
    "get_data.sh",
    "environment.sh",
    "run_copy_memory.sh",
    "run_depth_tasks.sh",
)


def run(
    script: Path, *arguments: object, cwd: Path, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess:
    """Call a script with this Python."""
    environment = {**os.environ, "PYTHON": python, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def copied_to(folder: Path) -> Path:
    """A copy of the scripts in a new folder `project`, without .venv."""
    copy = folder / "project"
    copy.mkdir()
    for name in SCRIPTS:
        shutil.copy(ROOT / name, copy)
    return copy


def passed(project: Path, script: str, *words: object) -> list[str]:
    """What a script of a copy passes to the training script."""
    recorder = project / "python"
    recorder.write_text('#!/bin/sh\ncase "$1" in -c) exit 1;; esac\nprintf "%s\\n" "$@"\n')
    recorder.chmod(0o755)
    with open(project / "environment.sh", "a") as file:
        print("prepare_environment() { python=$PYTHON; }", file=file)
    (project / "get_data.sh").write_text("")
    done = run(project / script, *words, cwd=project, python=str(recorder))
    assert (done.returncode, done.stderr) == (0, "")
    program, *arguments = done.stdout.splitlines()
    model = "trellisnet" if "trellisnet" in script else "transformer"
    assert program == f"{project}/DEQModel/train_{model}.py"
    return arguments
