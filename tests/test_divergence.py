"""Runs that diverge: what they leave is sound and goes on with other settings."""

import math
import signal
from pathlib import Path

import pytest
import torch
from diverging import interrupting, ruined, skipped
from processes import Job, checkpoint, run_in
from stopped_runs import content, flags, restart, signal_in_update, told
from tiny_run import Outcome, call

from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE

SMALL = "--lr 0.001"


def steps_in(folder: Path) -> dict[str, int]:
    """The steps of the checkpoints that are there."""
    paths = [folder / name for name in (CHECKPOINT_FILE, PREVIOUS_FILE)]
    return {path.name: torch.load(path, weights_only=True)["step"] for path in paths if path.exists()}


def kept(newest: int, previous: int | None = None) -> dict[str, int]:
    return {CHECKPOINT_FILE: newest} | ({PREVIOUS_FILE: previous} if previous else {})


def assert_ends_soundly(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.err
    assert math.isfinite(outcome.results["valid"]["loss"])
    assert math.isfinite(outcome.results["test"]["loss"])
    assert all(weight.isfinite().all() for weight in outcome.weights.values())
    assert outcome.results["training"]["skipped_updates"] == 0


@pytest.mark.parametrize(
    ("further", "ruin", "end", "left"),
    [
        ("--save_interval 2", ruined(5), (2, "goes back to step 4)"), kept(4, 2)),
        ("--save_interval 1", ruined(5), (2, "goes back to step 4, as no update since step 5 was sound)"), kept(4)),
        ("--save_interval 1", ruined(5, math.inf), (2, "goes back to step 4)"), kept(4, 3)),
        ("--save_interval 2", ruined(5, before=interrupting(7)), (143, "stopped by SIGTERM"), kept(4, 2)),
        (
            "--save_interval 2",
            ruined(5, before=interrupting(6, signal.SIGUSR1)),
            (2, "goes back to step 4)"),
            kept(4, 2),
        ),
        ("--save_interval 1", ruined(8), (0, ""), kept(8, 7)),
    ],
    ids=["proven", "not proven", "infinite", "SIGTERM", "SIGUSR1", "last step"],
)
def test_no_state_in_which_updates_are_skipped_takes_a_checkpoints_place(further, ruin, end, left, place, tmp_path):
    with ruin:
        outcome = call(f"{flags(place, further, 'ruined')} --max_bad_steps 3 --work_dir {tmp_path}/R-")
    status, part = end
    assert outcome.status == status, outcome.err
    assert part in outcome.err
    assert outcome.err.count("train_transformer.py: ") == (status != 0)
    assert steps_in(outcome.folder) == left
    if status:
        assert_ends_soundly(restart(outcome.folder, SMALL))


def test_a_run_whose_rate_is_raised_too_far_goes_on_with_a_small_one(stopped):
    """Its last sound update is the first one with that rate."""
    for further, left in (("--save_interval 4", kept(6, 4)), ("--save_interval 1", kept(6))):
        outcome = restart(stopped, f"--lr 1e37 --scheduler constant --max_bad_steps 2 {further}")
        assert outcome.status == 2
        assert "step 9: 2 updates in a row" in outcome.err
        assert "--restart goes back to step 6" in outcome.err
        assert "lower --lr" in outcome.err
        assert outcome.err.count("\n") == 1
        assert steps_in(stopped) == left
    rest = restart(stopped, SMALL)
    assert "resumed at step 6" in rest.out
    assert_ends_soundly(rest)


def test_processes_that_are_killed_among_skipped_updates_and_runs_that_diverge_again(place, tmp_path):
    with ruined(5, before=interrupting(7)):
        folder = call(f"{flags(place, '--save_interval 1', 'again')} --work_dir {tmp_path}/R-").folder
    assert steps_in(folder) == kept(5, 4), "a later one might have proven the ruined one"
    outcome = restart(folder, f"{SMALL} --max_bad_steps 2")
    assert (outcome.status, steps_in(folder)) == (2, kept(4))
    assert "step 7: 2 updates in a row" in outcome.err
    assert "--restart goes back to step 4, as no update since step 5 was sound" in outcome.err
    with ruined(6):
        outcome = restart(folder, f"{SMALL} --max_bad_steps 2")
    assert (outcome.status, steps_in(folder)) == (2, kept(5))
    assert_ends_soundly(restart(folder, SMALL))


def test_without_a_checkpoint_from_before_the_last_one_stays(place, tmp_path):
    with ruined(1):
        first = call(f"{flags(place, '--save_interval 1 --max_bad_steps 2', 'early')} --work_dir {tmp_path}/R-")
    for outcome in (first, restart(first.folder)):
        assert outcome.status == 2
        assert "step 1, whose weights may be ruined: no checkpoint before it is left" in outcome.err
        assert steps_in(first.folder) == kept(1)
    with ruined(1):
        never = call(f"{flags(place, '--save_interval 3 --max_bad_steps 2', 'never')} --work_dir {tmp_path}/R-")
    assert "no checkpoint was written before" in never.err
    assert steps_in(never.folder) == {}


def test_a_damaged_checkpoint_from_before_takes_nobodys_place(place, tmp_path):
    with ruined(5, before=interrupting(7)):
        folder = call(f"{flags(place, '--save_interval 1', 'damaged')} --work_dir {tmp_path}/R-").folder
    (folder / PREVIOUS_FILE).write_bytes(b"")
    outcome = restart(folder, "--max_bad_steps 2")
    assert (outcome.status, content(folder)["step"]) == (2, 5)
    assert "may be ruined" in outcome.err


def test_one_skipped_update_delays_a_save_and_changes_nothing(place, tmp_path):
    base = f"{flags(place, '--save_interval 5', 'delayed')} --eval-interval 100 --work_dir {tmp_path}"
    with skipped(5):
        whole = call(f"{base}/W-")
        assert steps_in(whole.folder) == kept(10, 6)
        assert "step 5 no checkpoint until an update is sound: there is none" in whole.log
        with signal_in_update(8):
            folder = call(f"{base}/R-").folder
    with skipped(9), signal_in_update(9):
        assert restart(folder).status == 143
    assert steps_in(folder) == kept(8, 6)
    rest = restart(folder)
    assert rest.same_weights(whole)
    assert told(folder) == told(whole.folder)


def test_a_finished_run_keeps_a_checkpoint_of_an_earlier_step(place):
    assert steps_in(call(flags(place, "--save_interval 3", "finished")).folder) == kept(10, 9)


@pytest.mark.slow
def test_several_processes_go_back_and_go_on_together(place, tmp_path):
    folder = tmp_path / "deq-text" / "several"
    base = f"{flags(place, '--save_interval 1', 'several')} --work_dir {tmp_path}/"
    resumed, second = f"--restart --restart_dir {folder}", tmp_path / "second"
    second.mkdir()
    jobs = [
        Job(tuple(base.split()), tmp_path, ailing=1, at=5, number=signal.SIGTERM),
        Job(tuple(f"{resumed} --max_bad_steps 2".split()), second, ruined=6),
        Job(tuple(f"{resumed} {SMALL}".split()), tmp_path),
    ]
    assert run_in(2, jobs) == [[143, 143], [2, 2], [0, 0]]
    assert "--restart goes back to step 5, as no update since step 6 was sound" in (second / "err-0").read_text()
    assert "resumed at step 5" in (tmp_path / "out-0").read_text()
    assert math.isfinite(checkpoint(folder)["best"]["loss"])
