"""The DEQ-Transformer's cell at a fixed depth, from the command line."""

import json

import pytest
from tiny_peers import CELL, COURSE, WIDTHS
from tiny_run import call, perplexities
from tiny_trained import call_program

from evaluation.score_program import main as score


@pytest.fixture(scope="module")
def train(place):
    """Trains with these flags, or does what they say."""
    return lambda flags: call(f"--data {place}/corpus --dataset text --work_dir {place}/F- {COURSE} {flags}")


@pytest.fixture(scope="module")
def cell(train):
    outcome = train(f"{CELL} --name cell")
    assert outcome.status == 0, outcome.err
    return outcome


def test_the_cell_is_trained_and_evaluated_at_a_fixed_depth(cell, train):
    assert cell.results["test"]["shallow"] == 3
    assert cell.log.count("3 applications of the cell") >= 3
    assert "note: --depth 3: there are no solves; the solver and its flags are not used" in cell.log
    assert "residual" not in cell.log
    as_a_stage = train(f"--pretrain_steps 9 --n_layer 3 {WIDTHS}")
    assert as_a_stage.same_weights(cell)
    written = json.loads((cell.folder / "model_state_dict.settings.json").read_text())["settings"]
    assert (written["depth"], written["pretrain_steps"]) == ("3", 0)


def test_its_depth_stays_with_the_model_and_may_be_changed(cell, place):
    same = call(f"--eval --restart_dir {cell.folder}")
    assert perplexities(same.out) == perplexities(cell.log)
    scored = call_program(score, f"{cell.folder} {place}/corpus/test.txt --rows 4")
    assert perplexities(cell.log)[1] in scored.out
    deeper = call(f"--eval --restart_dir {cell.folder} --depth 5")
    assert "changed: --depth is 5, was 3" in deeper.out
    assert deeper.out.count("shallow: 5 applications of the cell") == 2
    assert perplexities(deeper.out) != perplexities(same.out)
    solved = call(f"--eval --load {cell.folder}/model_state_dict.pkl --data {place}/corpus --depth equilibrium --debug")
    assert solved.status == 0, solved.err
    assert "anderson, threshold" in solved.out


def test_a_shallow_stage_may_be_followed_by_a_fixed_depth(train):
    """A run that goes on at another depth keeps no stage that would have no effect."""
    part = train(f"--pretrain_steps 9 --n_layer 2 {WIDTHS} --max_step 2 --scheduler constant")
    resumed = call(f"--restart --restart_dir {part.folder} --max_step 4 --depth 2")
    assert resumed.status == 0, resumed.err
    assert "changed: --depth is 2, was equilibrium" in resumed.log
    again = train(f"--depth 2 {WIDTHS} --scheduler constant")
    assert resumed.same_weights(again)
