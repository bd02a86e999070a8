"""Files that are replaced as a whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from disks import full_disk

from system import atomic_file
from system.atomic_file import write_atomically
from system.state_dicts import load_state_dict, save_state_dict

IMPORT_ROOT = Path(atomic_file.__file__).parents[1]
SAVES = """
import sys
import torch
from system.state_dicts import save_state_dict
number = 0
while True:
    save_state_dict({"weight": torch.full((100, 1000), float(number))}, sys.argv[1])
    number += 1
"""


@pytest.mark.parametrize("side", [50, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_weights_on_a_full_disk(tmp_path, side, share):
    path = tmp_path / "model.pkl"
    new = {"weight": torch.randn(side, side), "bias": torch.zeros(side)}
    save_state_dict(new, path)
    size = path.stat().st_size
    save_state_dict({"weight": torch.ones(3)}, path)
    before = path.read_bytes()
    with full_disk(int(share * size)), pytest.raises(OSError, match="File too large"):
        save_state_dict(new, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_file_that_cannot_be_replaced_stays(tmp_path, monkeypatch, step):
    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"older"))
    if step == "open":
        (tmp_path / ".file.tmp").mkdir()
    elif step != "write":
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=r"Input/output|Is a directory"):
        write_atomically(path, fail if step == "write" else lambda file: file.write(b"newer"))
    assert path.read_bytes() == b"older"
    assert [entry for entry in tmp_path.iterdir() if entry.is_file()] == [path]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / ".file.tmp").write_bytes(bytes(9999))
    write_atomically(tmp_path / "file", lambda file: file.write(b"content"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"content")]


def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model.pkl"
    for pause in (0.0, 0.003, 0.011):
        process = subprocess.Popen([sys.executable, "-c", SAVES, str(path)], cwd=IMPORT_ROOT)
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert load_state_dict(path)["weight"].unique().numel() == 1
        assert {entry.name for entry in tmp_path.iterdir()} <= {"model.pkl", ".model.pkl.tmp"}
