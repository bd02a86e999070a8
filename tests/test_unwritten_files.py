"""Files that cannot be written even at the end of a run: it ends in an error that names them, and can be finished."""

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disks import full_disk
from diverging import at_updates, interrupting, ruined
from stopped_runs import assert_same, content, flags, restart, told
from tiny_run import LENGTHS, MODEL, Outcome, call

from training.trainer import Trainer

PLACES = ("log.txt", "settings.json", "results.json", "model_state_dict.pkl", "checkpoint.pt", "events.*")


def run_of(place: Path, folder: Path, further: str = "") -> Outcome:
    return call(f"{flags(place, '--save_interval 4', 'run')} --work_dir {folder}/ {further}")


def blocked(pattern: str) -> Callable[[Trainer], None]:
    """A folder comes to be where a file should be."""

    def block(trainer: Trainer) -> None:
        folder = trainer.experiment.folder
        path = next(folder.glob(pattern), folder / pattern)
        path.unlink(missing_ok=True)
        path.mkdir()

    return block


def assert_unwritten(outcome: Outcome, *named: str) -> None:
    """It ended with one line, on these files."""
    assert outcome.status == 2, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if not line.startswith("encoding")]
    assert line.startswith(f"train_transformer.py: error: {outcome.folder}: ")
    assert line.endswith(
        " could not be written, nor at a second try: make room or mend the folder, then finish the run with --restart"
    )
    for name in named:
        assert name in line
    assert line.count(" (") == len(named)
    assert not (outcome.folder / "results.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLACES if name != "settings.json"])
def test_a_file_that_something_is_in_the_way_of(name, place, tmp_path):
    whole = run_of(place, tmp_path / "whole")
    with at_updates(before={9: blocked(name)}):
        outcome = run_of(place, tmp_path)
    assert_unwritten(outcome, f"{next(outcome.folder.glob(name)).name} (Is a directory)")
    files = {path for path in PLACES if (whole.folder / path).is_file()} - {name, "results.json"}
    assert {path.name for path in outcome.folder.iterdir() if path.is_file()} >= files
    next(outcome.folder.glob(name)).rmdir()
    rest = restart(outcome.folder)
    assert rest.status == 0, rest.err
    assert rest.results["training"]["updates"] == 10
    if name != "model_state_dict.pkl":  # the one of the best validation before was in its place
        assert rest.same_weights(whole)
        assert rest.results["test"]["loss"] == whole.results["test"]["loss"]


def test_settings_that_something_is_in_the_way_of(stopped):
    (stopped / "settings.json").unlink()
    (stopped / "settings.json").mkdir()
    assert_unwritten(restart(stopped), "settings.json (Is a directory)")
    (stopped / "settings.json").rmdir()
    assert restart(stopped).status == 0


@contextmanager
def limited(n_bytes: int, step: int, until: str = "") -> Iterator[None]:
    """No file may become longer, from the update that ends with this step on until this method is called."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch, full_disk(limits[0]):
        if until:
            method = getattr(Trainer, until)

            def after_all(trainer: Trainer):
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                return method(trainer)

            patch.setattr(Trainer, until, after_all)
        limit = (n_bytes, limits[1])
        with at_updates(before={step: lambda trainer: resource.setrlimit(resource.RLIMIT_FSIZE, limit)}):
            yield


@pytest.mark.parametrize(
    ("n_bytes", "named"),
    [
        (0, ["log.txt", "events.out", "model_state_dict.pkl", "checkpoint.pt"]),
        (20_000, ["checkpoint.pt"]),
    ],
)
def test_a_disk_that_is_full_at_the_end(n_bytes, named, place, tmp_path):
    whole = run_of(place, tmp_path / "whole")
    with limited(n_bytes, 9):
        outcome = run_of(place, tmp_path)
    assert_unwritten(outcome, *named)
    assert outcome.err.count("(File too large)") == len(named)
    rest = restart(outcome.folder)
    assert rest.status == 0, rest.err
    assert rest.same_weights(whole)
    assert rest.results["test"]["loss"] == whole.results["test"]["loss"]
    assert told(rest.folder)[-8:] == told(whole.folder)[-8:]


def test_a_disk_that_has_room_at_the_second_try(place, tmp_path):
    whole = run_of(place, tmp_path / "whole")
    with limited(0, 9, until="restore_best"):
        outcome = run_of(place, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.same_weights(whole)
    assert outcome.results["test"]["loss"] == whole.results["test"]["loss"]
    assert content(outcome.folder)["step"] == 10
    assert_same(content(outcome.folder)["model"], content(whole.folder)["model"])


def test_results_are_those_of_the_last_call(place, tmp_path):
    """A run that goes on has none, until it has ended well."""
    first = run_of(place, tmp_path)
    kept = shutil.copytree(first.folder, tmp_path / "kept")
    there = []
    look = {11: lambda trainer: there.append((trainer.experiment.folder / "results.json").exists())}
    with at_updates(before=look, after=interrupting(11)):
        assert restart(first.folder, "--max_step 12").status == 143
    assert there == [False]
    assert not (first.folder / "results.json").exists()
    assert restart(first.folder).results["training"]["updates"] == 12
    with ruined(11):
        assert restart(kept, "--max_step 20 --max_bad_steps 2").status == 2
    assert not (kept / "results.json").exists()


def test_a_sweep_whose_figures_cannot_be_written(place, weights_file, tmp_path, monkeypatch):
    from runs import experiment

    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experiment, "write_json", fail)
    swept = f"--data {place}/corpus --dataset text {MODEL} {LENGTHS} --work_dir {tmp_path}/S- --load {weights_file}"
    outcome = call([*swept.split(), "--eval", "--sweep", "f_thres=2,3"])
    assert outcome.status == 2
    assert "settings.json (No space left on device), sweep.json (No space left on device) could not be" in outcome.err
    assert "repeat the sweep" in outcome.err
