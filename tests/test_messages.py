"""What a run says about itself: the command that goes on with it."""

import os
import signal
import sys
from pathlib import Path

import pytest
from tiny_run import COMMAND, call

from system.errors import UserError
from training.messages import how_to_go_on
from training.trainer import Trainer

TORCHRUN = str(Path(sys.executable).with_name("torchrun"))


@pytest.mark.parametrize(
    ("environment", "launcher", "end"),
    [
        ({}, sys.executable, "with-a-blank'"),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}, sys.executable, "with-a-blank'"),  # --multi_gpu starts its own
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1"}, sys.executable, "with-a-blank'"),
        (
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"},
            f"{TORCHRUN} --nproc-per-node 2",
            "with-a-blank'",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2"},
            f"{TORCHRUN} --nproc-per-node 1",
            " (on each machine, with the flags that tell torchrun of the others)",
        ),
    ],
)
def test_how_to_go_on_in_as_many_processes(environment, launcher, end, tmp_path, monkeypatch):
    folder = tmp_path / "a folder with-a-blank"
    folder.mkdir()
    (folder / "checkpoint.pt").touch()
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = how_to_go_on(type("Record", (), {"folder": folder}), COMMAND, COMMAND.parse([]))
    assert said.startswith(f"to go on: {launcher} ")
    assert said.endswith(end)


def test_device_flags_are_inherited(place, run):
    first = run("--multi_gpu --gpu0_bsz 2 --name devices")
    again = call(f"--restart --restart_dir {first.folder} --max_step 5")
    assert again.status == 0, again.err
    assert (again.settings["multi_gpu"], again.settings["gpu0_bsz"]) == (True, 2)
    off = call(f"--restart --restart_dir {first.folder} --max_step 6 --no-multi_gpu")
    assert "changed: --multi_gpu is False, was True" in off.log


def test_settings_that_no_checkpoint_holds_are_in_the_command_and_told_at_the_resume(run, monkeypatch):
    first = run("--name holds")
    monkeypatch.setattr(Trainer, "update", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(os, "kill", lambda *given: (_ for _ in ()).throw(UserError("cut off")))
    cut = call(f"--restart --restart_dir {first.folder} --max_step 9 --lr 0.5")
    monkeypatch.undo()
    assert cut.status == 2
    assert f"--restart_dir {first.folder} --lr 0.5 --max_step 9" in cut.out
    again = call(f"--restart --restart_dir {first.folder} --max_step 5")
    assert "note: the last call had --lr 0.5, which no checkpoint holds" in again.out
    assert "note: the last call" not in call(f"--restart --restart_dir {first.folder}").out
