"""The best model of a run: which validation's it is, and runs that have none."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from diverging import skipped, validating
from stopped_runs import content, flags, restart, signal_in_update
from tiny_run import Outcome, call

from evaluation.report import EvaluationReport
from system.state_dicts import save_state_dict
from training.checkpoint import CHECKPOINT_FILE
from training.trainer import Trainer

STAGES = "--pretrain_steps 5"  # validations at steps 4 and 5, then 8 and 10
NAN, INF = math.nan, math.inf


def run_of(place: Path, folder: Path, further: str = STAGES) -> Outcome:
    return call(f"{flags(place, further, 'run')} --work_dir {folder}/")


@pytest.mark.parametrize(
    ("losses", "best"),
    [((3, 4, 6, 5), 5), ((3, 4, NAN, 5), 5), ((NAN, 4, 6, INF), 6), ((INF, NAN, NAN, 5), 5), ((3, 4, 5, NAN), 5)],
)
def test_the_best_model_has_the_lowest_finite_loss_of_the_last_stage(losses, best, place, tmp_path):
    with validating(*losses):
        outcome = run_of(place, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.results["valid"]["loss"] == best


@pytest.mark.parametrize("loss", [NAN, INF])
def test_a_validation_without_a_result_replaces_no_file(loss, place, tmp_path):
    with validating(3, 4), signal_in_update(7):
        before = run_of(place, tmp_path / "before")
    with validating(3, 4, loss), signal_in_update(9):
        after = run_of(place, tmp_path / "after")
    assert after.same_weights(before)
    with validating(loss), signal_in_update(6):
        never = run_of(place, tmp_path / "never", "")
    assert not (never.folder / "model_state_dict.pkl").exists()


def assert_no_model(outcome: Outcome, *parts: str) -> None:
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if not line.startswith("encoding")]
    for part in (*parts, "no model to test", "--restart goes back to step", "lower --lr"):
        assert part in line
    assert line.removeprefix("train_transformer.py: error: ") in " ".join(outcome.log.split())
    assert not (outcome.folder / "results.json").exists()


@pytest.mark.parametrize("losses", [(3, 4, NAN, INF), (NAN, NAN, NAN, NAN)])
def test_a_run_whose_last_stage_has_no_result_ends_in_an_error(losses, place, tmp_path):
    """And so do those that go on from it, until there is one."""
    with validating(*losses):
        outcome = run_of(place, tmp_path)
    assert_no_model(outcome, "step 10: no validation of the equilibrium stage came to a finite loss")
    with validating(NAN, NAN):  # from step 8, before the last checkpoint
        assert_no_model(restart(outcome.folder), "step 10: no validation of the equilibrium stage")
    with validating(6, 7):
        rest = restart(outcome.folder)
    assert (rest.status, rest.results["valid"]["loss"]) == (0, 6)


def test_a_run_that_has_skipped_all_updates_ends_in_an_error(place, tmp_path):
    with skipped(*range(1, 5)):
        outcome = run_of(place, tmp_path, "--max_step 4")
    assert outcome.status == 2
    assert "step 4: all updates had a loss or a gradient that is not finite and were skipped" in outcome.err
    assert "no checkpoint was written before" in outcome.err
    assert outcome.err.count("train_transformer.py: ") == 1
    assert not (outcome.folder / "results.json").exists()


def test_the_search_starts_again_where_a_later_model_has_taken_the_place_of_the_best(stopped):
    """The run goes on from a checkpoint before that one, otherwise than it did."""
    with validating(3):
        restart(stopped, "--max_step 7")
    shutil.copy(stopped / CHECKPOINT_FILE, stopped.parent)
    with validating(2), signal_in_update(9):
        assert restart(stopped, "--max_step 10").status == 143
    shutil.copy(stopped.parent / CHECKPOINT_FILE, stopped)
    with validating(4, 5):
        rest = restart(stopped, "--lr 0.001 --max_step 10")
    assert "the best model is lost" not in rest.out
    assert rest.results["valid"]["loss"] == 4


def test_a_best_model_without_a_loss_of_an_older_program_is_none(stopped):
    checkpoint = content(stopped)
    checkpoint["best"]["loss"] = NAN
    torch.save(checkpoint, stopped / CHECKPOINT_FILE)
    with validating(4, 5):
        assert restart(stopped).results["valid"]["loss"] == 4


@pytest.mark.parametrize("finished", [True, False])
def test_a_best_model_that_vanishes_while_it_is_tested(finished, stopped, monkeypatch):
    """The last one takes its place, where it has been validated."""
    if finished:
        assert restart(stopped).status == 0
    restore_best = Trainer.restore_best

    def vanishing(trainer: Trainer) -> EvaluationReport:
        (trainer.experiment.folder / "model_state_dict.pkl").unlink()
        return restore_best(trainer)

    monkeypatch.setattr(Trainer, "restore_best", vanishing)
    outcome = restart(stopped)
    if finished:
        assert outcome.status == 2
        assert "model_state_dict.pkl does not hold the best model any more: --restart searches for it" in outcome.err
        assert not (stopped / "results.json").exists()
    else:
        assert outcome.status == 0
        assert "the best model is lost, and the last one takes its place" in outcome.out
    monkeypatch.undo()
    assert restart(stopped).status == 0


def test_a_checkpoint_knows_the_best_model_that_was_written_at_the_second_try(place, tmp_path, monkeypatch):
    tries = []

    def failing(state, path) -> None:
        tries.append(path)
        if len(tries) in (3, 4):  # of the validation at step 10, and of the save behind it
            raise OSError(28, "No space left on device")
        save_state_dict(state, path)

    monkeypatch.setattr("training.best_model.save_state_dict", failing)
    with validating(3, 2, 1):
        outcome = run_of(place, tmp_path, "")
    assert (outcome.status, len(tries)) == (0, 5)
    again = restart(outcome.folder)
    assert "does not hold the best model" not in again.out
    assert again.results["valid"]["loss"] == 1
