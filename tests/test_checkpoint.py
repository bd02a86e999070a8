"""Checkpoints that are damaged, of another program, or no checkpoints at all: the one before, defaults, one line."""

from pathlib import Path

import pytest
import torch
from stopped_runs import content, flags, restart, signal_in_update, told
from tiny_run import LENGTHS, MODEL, call

from system.errors import UserError
from system.tensor_files import read_tensors
from training import recipe
from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE
from training.update import Updater


def test_damaged_checkpoint_never_becomes_the_one_before(stopped):
    newest = stopped / CHECKPOINT_FILE
    newest.write_bytes(newest.read_bytes()[:-500])
    with signal_in_update(5):
        assert restart(stopped).status == 143
    steps = [torch.load(stopped / name, weights_only=True)["step"] for name in (CHECKPOINT_FILE, PREVIOUS_FILE)]
    assert steps == [5, 4]


def test_damaged_checkpoint_gives_way_to_the_one_before(stopped, place):
    whole = call(flags(place, "--save_interval 4", "undamaged"))
    newest = stopped / CHECKPOINT_FILE
    newest.write_bytes(newest.read_bytes()[:-500])
    rest = restart(stopped)
    assert rest.status == 0, rest.err
    assert f"warning: {newest} is cut short, damaged" in rest.out
    assert f"{stopped / PREVIOUS_FILE}, step 4" in rest.out
    assert rest.same_weights(whole)
    assert told(stopped) == told(whole.folder)


def test_without_a_sound_checkpoint_there_is_one_line(stopped):
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        (stopped / name).write_bytes(b"")
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    for part in ("no checkpoint to go on from", CHECKPOINT_FILE, PREVIOUS_FILE, "--load"):
        assert part in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("change", [{"format": 99}, {"extra": 1}])
def test_checkpoint_of_another_version_is_refused(change, stopped):
    torch.save({**content(stopped), **change}, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert outcome.status == 2
    assert "go on with the version that wrote it" in outcome.err


def rewrite_settings(folder: Path, rewritten) -> None:
    """The checkpoint of a program with other settings."""
    checkpoint = content(folder)
    torch.save({**checkpoint, "settings": rewritten(dict(checkpoint["settings"]))}, folder / CHECKPOINT_FILE)


def test_checkpoint_of_an_older_program_goes_on_with_defaults_that_are_told(stopped, place):
    """To the bits of a run that had the defaults, whatever settings the older program did not have."""
    whole = call(flags(place, "--save_interval 4", "newer"))
    lacking = ("jac_loss_weight", "f_history", "max_bad_steps", "log_interval")
    rewrite_settings(stopped, lambda s: {name: value for name, value in s.items() if name not in lacking})
    rest = restart(stopped, "--log-interval 3")
    assert rest.status == 0, rest.err
    for flag, default in (("jac_loss_weight", 0.0), ("f_history", None), ("max_bad_steps", 10), ("log-interval", 200)):
        assert f"note: the run's program had no --{flag}: it goes on with the default, {default}\n" in rest.out
    assert "changed: --log-interval is 3, was 200" in rest.out
    assert rest.same_weights(whole)


def test_settings_that_this_program_does_not_know_are_refused(stopped):
    rewrite_settings(stopped, lambda s: {**s, "of_the_future": 3})
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    for part in ("does not know (of_the_future)", "go on with the program that wrote", "--load"):
        assert part in outcome.err


@pytest.mark.parametrize("other", [{"a": torch.ones(2)}, [1, 2], 3])
def test_other_tensor_files_are_no_checkpoints(other, stopped):
    torch.save(other, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert outcome.status == 2
    assert "is no checkpoint of a training run" in outcome.err


@pytest.mark.parametrize("field", ["model", "optimizer", "memory", "random", "window", "plateau", "totals", "best"])
def test_checkpoint_with_nonsense_inside_is_refused(field, stopped):
    torch.save({**content(stopped), field: {"nonsense": torch.ones(3)}}, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert outcome.status == 2, outcome.out
    assert "Traceback" not in outcome.err


def test_memory_that_runs_out_while_resuming_is_not_another_kind_of_run(stopped, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(Updater, "restore", too_much)
    outcome = restart(stopped)
    assert outcome.status == 2
    assert "the checkpoint does not fit into the memory: make room" in outcome.err
    assert "another kind" not in outcome.err
    assert outcome.err.count("\n") == 1


def test_evaluation_of_a_run_reads_no_values_of_its_checkpoints(stopped, place):
    """Their weights are damaged, which nothing notices; another corpus is noticed all the same."""
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        weight = torch.load(stopped / name, weights_only=True)["model"]["inject_conv.weight"].numpy().tobytes()
        whole = (stopped / name).read_bytes()
        assert whole.count(weight) == 1
        (stopped / name).write_bytes(whole.replace(weight, bytes(len(weight))))
        with pytest.raises(UserError, match="damaged"):
            read_tensors(stopped / name)
    evaluated = f"--dataset text {MODEL} {LENGTHS} --debug --eval --restart_dir {stopped}"
    assert call(f"--data {place}/corpus {evaluated}").status == 0
    refused = call(f"--data {place}/other {evaluated}")
    assert refused.status == 2
    assert "is not what the run" in refused.err


def test_a_checkpoint_from_which_another_process_went_on_meanwhile_is_refused(stopped, place, monkeypatch):
    """Both had read its header; the other one was the first to lock the folder, and is through."""
    whole = call(flags(place, "--save_interval 4", "alone"))
    record, left = recipe.open_record, {}

    def late(*given):
        monkeypatch.undo()
        assert restart(stopped).status == 0
        left.update({path: path.read_bytes() for path in stopped.iterdir() if path.is_file()})
        return record(*given)

    monkeypatch.setattr(recipe, "open_record", late)
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    assert f"{stopped} is in use by another process, which has gone on" in outcome.err
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == left
    assert told(stopped) == told(whole.folder)


def test_an_unknown_entry_is_refused_before_anything_is_written(stopped):
    torch.save({**content(stopped), "extra": 1}, stopped / CHECKPOINT_FILE)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"step": -5}, "is no checkpoint of a training run"),
        ({"format": torch.ones(2)}, "is no checkpoint of a training run"),
        ({"settings": 3}, "is no checkpoint of a training run"),
        ({"log_end": "x"}, "is no checkpoint of a training run"),
        ({"position": -5}, "another kind of run"),
        ({"epoch": 2.5}, "another kind of run"),
    ],
)
def test_entries_of_another_kind_are_refused(change, part, stopped):
    torch.save({**content(stopped), **change}, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert part in outcome.err


@pytest.mark.parametrize("entry", ["epoch", "model", "window", "best"])
def test_a_missing_entry_is_refused_before_anything_is_written(entry, stopped):
    torch.save({name: value for name, value in content(stopped).items() if name != entry}, stopped / CHECKPOINT_FILE)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    assert restart(stopped).status == 2
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before
