"""Disks that fill up, folders that vanish or cannot be written: runs go on, files stay whole, and it is told once."""

import errno
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from disks import full_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import COMMAND

from runs import experiment as experiments
from runs import log_file
from runs.experiment import Experiment
from system.errors import UserError
from system.growing_file import GrowingFile
from system.progress import LostScreenError
from system.state_dicts import load_state_dict, save_state_dict

Settings = COMMAND.settings
MIB = 1 << 20


@pytest.fixture(autouse=True)
def screen(capsys) -> None:
    """In memory: a full disk must not be the screen's too."""


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, n_bytes: int = 2 * MIB) -> None:
    """Put zeros into a file, as many as fit."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while n_bytes and (n := os.write(handle, bytes(min(n_bytes, 4096)))):
            n_bytes -= n
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
    finally:
        os.close(handle)


@pytest.fixture
def experiment(tmp_path) -> Iterator[Experiment]:
    with Experiment(Settings(work_dir=str(tmp_path / "runs-"), dataset="text")) as experiment:
        yield experiment


def log_of(experiment: Experiment) -> str:
    return (experiment.folder / "log.txt").read_text()


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in EventAccumulator(str(folder)).Reload().Scalars("loss")]


def warnings(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("room", [0, 1, 10, 20])
def test_lines_wait_for_a_full_disk(experiment, capsys, room):
    experiment.log("the first line")
    with full_disk(experiment.log_end + room):
        experiment.log("a line that waits")
        experiment.log("another")
        written = log_of(experiment)
        assert written == "the first line\n" + (room >= 18) * "a line that waits\n", "no part of a line"
        assert experiment.log_end == len("the first line\na line that waits\nanother\n")
    experiment.log("the last line")
    assert log_of(experiment) == "the first line\na line that waits\nanother\nthe last line\n"
    assert experiment.log_end == len(log_of(experiment))
    path = experiment.folder / "log.txt"
    said = capsys.readouterr().out.splitlines()
    assert said.count(f"{path} can be written again") == 1
    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert warning == (
        f"warning: cannot write {path} (File too large), its lines wait in memory: make room or mend the folder"
    )


def test_every_outage_is_told(experiment, capsys):
    for _ in range(3):
        with full_disk():
            experiment.log("one")
            experiment.log("two")
        experiment.log("three")
        assert len(warnings(capsys)) == 1
    assert log_of(experiment) == "one\ntwo\nthree\n" * 3


def test_the_newest_lines_wait(experiment, monkeypatch):
    monkeypatch.setattr(log_file, "LONGEST_WAIT", 3)
    with full_disk():
        for number in range(7):
            experiment.log(f"line {number}")
    experiment.log("line 7")
    missing, *lines = log_of(experiment).splitlines()
    assert missing == "(4 lines that could not be written are missing here)"
    assert lines == ["line 4", "line 5", "line 6", "line 7"]
    assert experiment.log_end == len(log_of(experiment))


def test_lines_that_wait_are_written_at_the_end(tmp_path):
    with Experiment(Settings(work_dir=str(tmp_path / "runs-"))) as experiment, full_disk():
        experiment.log("waits")
    assert log_of(experiment) == "waits\n"


def test_curves_lose_points_but_not_themselves(experiment, capsys):
    experiment.scalars({"loss": 1.0}, 1)
    (events,) = experiment.folder.glob("events*")
    with full_disk(events.stat().st_size + 5):
        experiment.scalars({"loss": 2.0}, 2)
        experiment.scalars({"loss": 3.0}, 3)
    experiment.scalars({"loss": 4.0}, 4)
    assert losses(experiment.folder) == [(1, 1.0), (4, 4.0)]
    (about_losses,) = warnings(capsys)
    assert f"{events} (File too large), its curves lose these points: make room" in about_losses


def test_results_stay_whole_on_a_full_disk(experiment, capsys):
    experiment.results({"perplexity": 3.0})
    with full_disk(10):
        experiment.results({"perplexity": 2.0})
        experiment.results({"perplexity": 1.0})
    assert json.loads((experiment.folder / "results.json").read_text()) == {"perplexity": 3.0}
    assert not list(experiment.folder.glob(".*"))
    assert len(warnings(capsys)) == 1


def test_a_run_may_start_on_a_disk_with_room_for_names_only(tmp_path, capsys):
    with full_disk(), Experiment(Settings(work_dir=str(tmp_path / "runs-"))) as experiment:
        experiment.log("a line")
        experiment.scalars({"loss": 1.0}, 1)
    assert len(warnings(capsys)) == 3  # of settings, curves and log
    assert sorted(path.name.split(".")[0] for path in experiment.folder.iterdir()) == ["events", "log"]


def test_a_folder_that_vanishes_is_made_anew(experiment, capsys):
    experiment.log("lost")
    experiment.scalars({"loss": 1.0}, 1)
    shutil.rmtree(experiment.folder.parent)
    experiment.log("kept")
    experiment.scalars({"loss": 2.0}, 2)
    experiment.results({"perplexity": 3.0})
    assert log_of(experiment) == "kept\n"
    assert experiment.log_end == len("kept\n")
    assert losses(experiment.folder) == [(2, 2.0)]
    assert (experiment.folder / "results.json").exists()
    assert not warnings(capsys)
    with pytest.raises(UserError, match="in use by another process"):
        Experiment(experiment_settings(experiment), folder=experiment.folder)


def experiment_settings(experiment: Experiment) -> Settings:
    return Settings(work_dir=str(experiment.folder.parent.parent / "runs-"))


def test_a_folder_that_cannot_be_made_anew(experiment, capsys):
    experiment.log("lost")
    shutil.rmtree(experiment.folder)
    experiment.folder.write_text("in the way")
    for number in (1, 2):
        experiment.log(f"line {number}")
        experiment.scalars({"loss": 1.0}, number)
        experiment.results({})
    assert len(warnings(capsys)) == 3
    experiment.folder.unlink()
    experiment.log("line 3")
    experiment.scalars({"loss": 1.0}, 3)
    assert log_of(experiment) == "line 1\nline 2\nline 3\n"
    assert losses(experiment.folder) == [(3, 1.0)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_becomes_read_only(experiment, capsys):
    experiment.folder.chmod(0o500)
    experiment.log("a line")
    experiment.scalars({"loss": 1.0}, 1)
    assert not warnings(capsys), "open files can still be written"
    experiment.results({})
    assert len(warnings(capsys)) == 1
    with pytest.raises(PermissionError):
        save_state_dict({"weight": torch.ones(3)}, experiment.folder / "model.pkl")
    experiment.folder.chmod(0o700)


@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_a_disk_that_fails_for_a_while(experiment, capsys, monkeypatch, error):
    def fail(*args):
        raise OSError(error, os.strerror(error))

    experiment.log("before")
    for name in ("write", "ftruncate", "fsync"):
        monkeypatch.setattr(os, name, fail)
    experiment.log("during")
    experiment.scalars({"loss": 1.0}, 1)
    experiment.results({})
    monkeypatch.undo()
    experiment.log("after")
    assert log_of(experiment) == "before\nduring\nafter\n"
    assert [os.strerror(error) in line for line in warnings(capsys)] == [True] * 3


def test_a_torn_piece_is_cut_off_before_the_next(tmp_path, monkeypatch):
    write = os.write

    def tear(handle, piece):
        if len(piece) < 3:
            raise OSError(errno.EIO, "Input/output error")
        return write(handle, piece[:-2])

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    file = GrowingFile(tmp_path / "file")
    file.append(b"first")
    monkeypatch.setattr(os, "write", tear)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="Input/output"):
        file.append(b"torn piece")
    assert file.path.read_bytes() == b"firsttorn pie"
    monkeypatch.undo()
    file.append(b"second")
    file.close()
    assert file.path.read_bytes() == b"firstsecond"


def test_a_lost_screen_and_a_full_disk(experiment, monkeypatch):
    def lose(text):
        monkeypatch.undo()
        raise LostScreenError("standard output is lost")

    monkeypatch.setattr(experiments, "say", lose)
    with full_disk():
        experiment.log("a line")
    experiment.log("the next")
    assert log_of(experiment) == "a line\nstandard output is lost; the run goes on\nthe next\n"


def test_a_run_that_fails_on_a_full_disk_shows_its_own_error(tmp_path):
    def run():
        with Experiment(Settings(work_dir=str(tmp_path / "runs-"))) as experiment:
            shutil.rmtree(experiment.folder)
            experiment.folder.write_text("")
            raise UserError("its own")

    with full_disk(), pytest.raises(UserError, match="its own"):
        run()


def test_a_small_disk_that_fills_up_again_and_again(small_disk):
    """Whatever room there is: whole lines in their order, whole curves, whole files."""
    rng, ballast = random.Random(0), small_disk / "ballast"
    weights = {"weight": torch.zeros(150, 150)}
    n_saved = 0
    with Experiment(Settings(work_dir=str(small_disk / "runs-"))) as experiment:
        path = experiment.folder / "model.pkl"
        for number in range(60):
            fill(ballast, rng.choice((0, 2 * MIB, MIB - rng.randrange(MIB // 8))))
            experiment.log(f"line {number}")
            experiment.scalars({"loss": float(number)}, number)
            experiment.results({"step": number})
            try:
                save_state_dict({**weights, "step": torch.tensor(number)}, path)
                n_saved += 1
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017
            if n_saved:
                assert load_state_dict(path)["weight"].shape == (150, 150)
            if rng.random() < 0.5:
                ballast.unlink()
        ballast.unlink(missing_ok=True)
    assert 5 < n_saved < 60
    assert log_of(experiment) == "".join(f"line {number}\n" for number in range(60))
    points = losses(experiment.folder)
    assert 5 < len(points) <= 60  # a file's last block may have had room for all
    assert all(step == value for step, value in points)
    assert json.loads((experiment.folder / "results.json").read_text())["step"] in range(60)
