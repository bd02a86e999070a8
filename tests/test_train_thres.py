"""--train_thres: the solves of training stop earlier than those that a model is judged by."""

import shlex

import pytest
from tiny_run import COMMAND, LENGTHS, MODEL, call

from config.depth import training_depth, validation_depth
from config.stages import thresholds_of
from modules.depth import Applications

SOLVES = f"{MODEL} --solver broyden --f_thres 9 --b_thres 8"


def depths(schedule, steps) -> list:
    """The thresholds of forward and backward solves at these steps; how often the cell is applied where none is."""
    found = [schedule.at(step) for step in steps]
    return [depth.n if isinstance(depth, Applications) else (depth.f_thres, depth.b_thres) for depth in found]


@pytest.mark.parametrize(
    ("words", "in_training", "in_validations"),
    [
        ("", [(9, 8)] * 4, [(9, 8)] * 4),
        ("--train_thres 3", [(3, 3)] * 4, [(9, 8)] * 4),
        ("--train_thres '0:3 10:6'", [(3, 3), (3, 3), (6, 6), (6, 6)], [(9, 8)] * 4),
        ("--train_thres '0:3 20:6' --pretrain_steps 10", [2, 2, (3, 3), (6, 6)], [2, 2, (9, 8), (9, 8)]),
        (
            "--train_thres '0:3 10:6' --depth '0:1 5:equilibrium 15:4'",
            [1, (3, 3), (6, 6), 4],
            [1, (9, 8), (9, 8), 4],
        ),
    ],
)
def test_thresholds_step_by_step(words, in_training, in_validations):
    settings = COMMAND.parse(shlex.split(f"{SOLVES} {words}"))
    for schedule, expected in ((training_depth(settings), in_training), (validation_depth(settings), in_validations)):
        assert depths(schedule, (0, 9, 10, 20)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "`train_thres` is '0': pass a number of steps above 0"),
        ("three", "`train_thres` is 'three'"),
        ("0:3 5:equilibrium", "`train_thres` is '0:3 5:equilibrium'"),
        ("0:3 5", "`train_thres` has '5': write each stage as first step and train_thres"),
        ("3:3 5:4", "steps begin with 0 and rise"),
    ],
)
def test_a_text_of_another_form_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        thresholds_of(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train_thres 0", "--train_thres is '0': pass a number of steps above 0"),
        ("--train_thres 3 --depth 4", "--train_thres 3 has no effect without --depth equilibrium"),
        (
            "--train_thres 3 --rand_f_thres_delta 3",
            "--rand_f_thres_delta 3 is not below the threshold 3 of --train_thres",
        ),
    ],
)
def test_flags_that_make_no_sense_end_in_one_line(words, message):
    outcome = call(f"{SOLVES} {words}")
    assert outcome.status != 0
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_run_trains_with_its_thresholds_and_is_judged_by_others(place):
    words = f"--data {place}/corpus --dataset text --work_dir {place}/T- {LENGTHS} --lr 0.01 --f_eps 1e-9 --b_eps 1e-9"
    more = "--max_step 4 --eval-interval 4 --log-interval 1 --train_thres '0:3 2:5'"
    outcome = call(shlex.split(f"{words} {more} {SOLVES}"))
    assert outcome.status == 0, outcome.err
    steps = [line.split(" f ")[1].split()[0] for line in outcome.log.splitlines() if " f " in line]
    assert steps == ["3.0", "3.0", "5.0", "5.0"]
    assert outcome.results["test"]["threshold"] == 9
    assert "end of" not in outcome.log, "no stage of the run has ended"
