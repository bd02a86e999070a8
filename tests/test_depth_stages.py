"""--depth with stages: how its text is read, and runs that grow deeper."""

import pytest
from tiny_run import LENGTHS, MODEL, call, perplexities

from config.stages import Stage, last_applications, stages_of
from runs.history import History

WIDTHS = f"{MODEL} {LENGTHS} --solver broyden --f_thres 6 --b_thres 6 --lr 0.01 --eval-interval 100 --log-interval 1"


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("equilibrium", [(0, None)]),
        ("4", [(0, 4)]),
        ("0:4", [(0, 4)]),
        ("0:1 8000:4 16000:equilibrium", [(0, 1), (8000, 4), (16000, None)]),
        ("  0:equilibrium   5:2 ", [(0, None), (5, 2)]),
    ],
)
def test_a_text_and_its_stages(text, stages):
    assert stages_of(text) == tuple(Stage(*stage) for stage in stages)
    assert last_applications(text) == stages[-1][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is ''"),
        ("0", "is '0'"),
        ("deep", "is 'deep'"),
        ("0:0", "is '0:0'"),
        ("0:1 5", "has '5'"),
        ("0:1 x:2", "has 'x:2'"),
        ("0:1 -5:2", "has '-5:2'"),
        ("0:1 5:", "is '0:1 5:'"),
        ("3:1 5:2", "begin with 0 and rise"),
        ("0:1 5:2 5:3", "begin with 0 and rise"),
        ("0:1 9:2 5:3", "begin with 0 and rise"),
        (":", "has ':'"),
    ],
)
def test_a_text_of_another_form_is_told(text, message):
    with pytest.raises(ValueError, match="`depth` ") as caught:
        stages_of(text)
    assert message in str(caught.value)


def trained(place, depth: str, more: str = "", name: str = "stages"):
    """A run of six updates."""
    words = f"--data {place}/corpus --dataset text --work_dir {place}/R- --name {name} {WIDTHS} --max_step 6 {more}"
    outcome = call([*words.split(), *(["--depth", depth] if depth else [])])
    assert outcome.status == 0, outcome.err
    return outcome


def test_a_shallow_stage_can_be_written_as_one_of_the_stages(place):
    one = trained(place, "0:3 2:equilibrium")
    other = trained(place, "", "--n_layer 3 --pretrain_steps 2")
    assert one.same_weights(other)
    assert one.results["test"]["loss"] == other.results["test"]["loss"]
    assert one.results["shallow_stage"]["loss"] == other.results["shallow_stage"]["loss"]
    assert "step 2 end of shallow stage: perplexity" in one.log
    assert History.of(one.folder).equilibrium_from == History.of(other.folder).equilibrium_from == 2


def test_a_run_grows_deeper_and_ends_with_an_equilibrium(place):
    outcome = trained(place, "0:1 2:4 4:equilibrium")
    assert "step 2 end of shallow stage of depth 1: perplexity" in outcome.log
    assert "step 4 end of shallow stage of depth 4: perplexity" in outcome.log
    assert outcome.results["shallow_stage"]["shallow"] == 4
    assert outcome.results["test"]["shallow"] is None
    assert History.of(outcome.folder).equilibrium_from == 4
    assert perplexities(call(f"--eval --restart_dir {outcome.folder}").out) == perplexities(outcome.log)


def test_a_run_that_stops_between_stages_goes_on_to_the_same_end(place):
    """The best model of a stage is none of the next one's."""
    depth = "0:1 2:4 4:2"
    whole = trained(place, depth, "--scheduler constant")
    part = trained(place, depth, "--scheduler constant --max_step 3")
    assert part.results["test"]["shallow"] == 4
    resumed = call(f"--restart --restart_dir {part.folder} --max_step 6")
    assert resumed.status == 0, resumed.err
    assert resumed.same_weights(whole)
    assert resumed.results["test"]["shallow"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depth", "0:1 5:x"], "--depth is '0:1 5:x': pass equilibrium, a number of applications above 0, or stages"),
        (["--depth", "1:1"], "--depth is '1:1': steps begin with 0 and rise"),
        (["--depth", "0:1 2:equilibrium", "--pretrain_steps", "2"], "--pretrain_steps 2 has no effect without --depth"),
        (["--depth", "0:1 2:3", "--spectral_radius"], "--spectral_radius has no effect without --depth equilibrium"),
    ],
)
def test_mistakes_take_one_line(words, message, place):
    outcome = call([*f"--data {place}/corpus --dataset text --work_dir {place}/R- {WIDTHS}".split(), *words])
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert message in line
