"""Means of the weights: when they begin, what is averaged, who sees them, and what becomes of them on resuming."""

import math
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from diverging import at_updates, ruined, skipped, validating
from stopped_runs import content, restart, signal_in_update
from tiny_run import COMMAND, COURSE, LENGTHS, MODEL, Outcome, call
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from evaluation.probe import Probe
from training.averaging import WeightAverage

RUN = "--optim SGD --lr 0.5 --scheduler constant --max_step 6 --eval-interval 1 --asgd --nonmono 1"
LOSSES = (3.0, 2.0, 2.5, 2.6, 1.9, 1.8)  # the fourth is above the best of the first two
BEGINS = "step 4 the weights are averaged from here on (--asgd)"


class Iterates(dict):
    """Weights by step, of the model that is trained."""

    def keep(self, trainer) -> None:
        state = trainer.model.state_dict()
        self[trainer.progress.step] = {name: value.clone() for name, value in state.items()}

    def mean(self, *steps: int) -> dict:
        return {name: sum(self[step][name] for step in steps) / len(steps) for name in self[steps[0]]}


def trained(place: Path, tmp_path: Path, further: str = "", losses=LOSSES, stack=(), n=6) -> tuple[Outcome, Iterates]:
    """A run whose validations come to these losses, and its iterates."""
    iterates = Iterates()
    with ExitStack() as all_of_it:
        for context in (at_updates(after=dict.fromkeys(range(1, n + 1), iterates.keep)), validating(*losses), *stack):
            all_of_it.enter_context(context)
        base = f"--data {place}/corpus --dataset text --work_dir {tmp_path}/R- {MODEL} {LENGTHS} {COURSE} {RUN}"
        outcome = call(f"{base} --name run {further}")
    return outcome, iterates


def assert_close(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-7)


def test_the_mean_is_that_of_the_iterates_from_the_trigger_on_and_is_what_is_kept(place, tmp_path, monkeypatch):
    probed, probe = [], Probe.of
    monkeypatch.setattr(Probe, "of", lambda model, *given: (probed.append(model.state_dict()), probe(model, *given))[1])
    outcome, iterates = trained(place, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.log.count("averaged from here on") == outcome.log.count(BEGINS) == 1
    assert_close(outcome.weights, iterates.mean(4, 5, 6))
    assert_close(probed[-1], iterates.mean(4, 5, 6))
    saved = content(outcome.folder)
    assert_close(saved["model"], iterates[6])
    average = saved["average"]["weights"]
    assert int(average.pop("n_averaged")) == 3
    assert_close({name.removeprefix("module."): value for name, value in average.items()}, iterates.mean(4, 5, 6))
    evaluated = call(f"--eval --restart_dir {outcome.folder} --debug --data {place}/corpus")
    assert f"test: perplexity {math.exp(outcome.results['test']['loss']):.3f}" in evaluated.out


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for numbers of a device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **kwargs or {})


def averages() -> tuple[WeightAverage, torch.nn.Linear]:
    model = torch.nn.Linear(3, 2)
    average = WeightAverage(COMMAND.parse(["--optim", "SGD", "--asgd", "--nonmono", "0"]), model)
    assert [average.consider(loss) for loss in (1.0, 2.0)] == [False, True]
    return average, model


def test_the_host_does_not_wait_for_a_mean():
    average, model = averages()
    with Waits() as waits:
        for _ in range(3):
            with torch.no_grad():
                model.weight += 1
            average.add()
    assert waits.count == 0
    torch.testing.assert_close(average.model.weight, model.weight - 1.5)


def test_a_checkpoint_of_an_older_program_is_read():
    average, model = averages()
    older = AveragedModel(model)
    for i in range(3):
        with torch.no_grad():
            model.weight += i
        older.update_parameters(model)
    average.restore({"average": {"losses": [2.0, 1.0], "weights": older.state_dict()}})
    assert torch.equal(average.model.weight, older.module.weight)
    with torch.no_grad():
        model.weight += 8
    average.add()
    torch.testing.assert_close(average.model.weight, model.weight - (8 + 10 + 11) / 4)
    assert average.state()["average"]["weights"].keys() == older.state_dict().keys()


def test_training_itself_is_that_of_plain_sgd(place, tmp_path):
    _, averaged = trained(place, tmp_path)
    _, plain = trained(place, tmp_path, "--no-asgd --nonmono 5 --name plain")
    assert all(torch.equal(averaged[6][name], plain[6][name]) for name in plain[6])


def test_skipped_updates_are_not_averaged(place, tmp_path):
    outcome, iterates = trained(place, tmp_path, stack=[skipped(5)])
    assert int(content(outcome.folder)["average"]["weights"]["n_averaged"]) == 2
    assert_close(outcome.weights, iterates.mean(4, 6))


@pytest.mark.parametrize(
    ("further", "losses", "begins"),
    [
        ("", (3.0, 2.0, math.nan, math.nan, 1.9, 1.8), []),
        ("", (3.0, 2.0, math.inf, math.inf, 2.1, 1.8), ["5"]),
        ("--nonmono 0", LOSSES, ["3"]),
        ("--nonmono 5", LOSSES, []),
        ("--pretrain_steps 4", LOSSES, ["4"]),
        ("--pretrain_steps 4 --nonmono 0", LOSSES, ["3"]),
    ],
    ids=["nan", "infinite", "at once", "patient", "shallow", "shallow and at once"],
)
def test_trigger(place, tmp_path, further, losses, begins):
    outcome, _ = trained(place, tmp_path, further, losses)
    assert outcome.status == 0, outcome.err
    assert re.findall(r"step (\d) the weights are averaged", outcome.log) == begins
    goes_on = begins and "end of shallow stage" not in outcome.log
    assert (content(outcome.folder)["average"]["weights"] is not None) == bool(goes_on)


def test_the_last_mean_takes_the_place_of_a_best_model_that_is_lost(place, tmp_path):
    lose = at_updates(after={6: lambda trainer: (trainer.experiment.folder / "model_state_dict.pkl").unlink()})
    outcome, iterates = trained(place, tmp_path, losses=(*LOSSES[:5], 1.95), stack=[lose])
    assert "the best model is lost, and the last one takes its place" in outcome.out
    assert_close(outcome.weights, iterates.mean(4, 5, 6))


@pytest.mark.parametrize(("change", "n_averaged"), [("", 3), ("--no-asgd --nonmono 5", None), ("--lr 0.4", 3)])
def test_a_run_that_goes_on_keeps_the_mean_while_it_is_asked_for(place, tmp_path, change, n_averaged):
    cut, _ = trained(place, tmp_path, stack=[signal_in_update(5)], n=5)
    assert cut.status == 143
    with validating(*LOSSES[4:]):
        rest = restart(cut.folder, change)
    assert rest.status == 0, rest.err
    assert ("changed: --asgd is False, was True" in rest.out) == (n_averaged is None)
    average = content(cut.folder)["average"]["weights"]
    assert (average and int(average["n_averaged"])) == n_averaged
    assert content(cut.folder)["step"] == 6


def test_a_run_that_goes_on_is_told_what_it_cannot_change(place, tmp_path):
    cut, _ = trained(place, tmp_path, stack=[signal_in_update(3)], n=3)
    refused = restart(cut.folder, "--optim Adam")
    assert (refused.status, refused.out) == (2, "")
    assert "--restart cannot change --optim SGD to Adam (the optimizer's state is its own): leave" in refused.err


def test_a_run_of_plain_sgd_may_begin_to_wait_for_the_trigger(place, tmp_path):
    cut, _ = trained(place, tmp_path, "--no-asgd --nonmono 5", stack=[signal_in_update(3)], n=3)
    with validating(*LOSSES[2:]):
        rest = restart(cut.folder, "--asgd --nonmono 0")
    assert "changed: --asgd is True, was False" in rest.out
    assert BEGINS in rest.log, "the fourth is above the third"


def test_a_run_that_goes_back_after_it_has_diverged_averages_from_there(place, tmp_path):
    outcome, _ = trained(place, tmp_path, "--max_bad_steps 1", stack=[ruined(5)])
    assert outcome.status == 2
    assert "--restart goes back to step 4" in outcome.err
    with validating(*LOSSES[3:]):  # the checkpoint is from before its validation
        rest = restart(outcome.folder, "--lr 0.1")
    assert rest.status == 0, rest.err
    assert int(content(rest.folder)["average"]["weights"]["n_averaged"]) == 3
    assert all(value.isfinite().all() for value in rest.weights.values())


# The exponential mean


def exponential(iterates: Iterates, decay: float, steps: range) -> dict:
    """The mean by its recursion, in float64."""
    mean, n = {name: value.double() for name, value in iterates[steps[0]].items()}, 1
    for step in steps[1:]:
        d = min(decay, (1 + n) / (10 + n))
        mean, n = {name: d * mean[name] + (1 - d) * iterates[step][name].double() for name in mean}, n + 1
    return {name: value.float() for name, value in mean.items()}


@pytest.mark.parametrize("decay", [0.2, 0.999])
def test_the_exponential_mean_is_that_of_all_iterates_and_is_what_is_kept(decay, place, tmp_path):
    losses = (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    outcome, iterates = trained(place, tmp_path, f"--no-asgd --nonmono 5 --ema {decay}", losses)
    assert outcome.status == 0, outcome.err
    assert_close(outcome.weights, exponential(iterates, decay, range(1, 7)))
    assert_close(content(outcome.folder)["model"], iterates[6])
    _, plain = trained(place, tmp_path, "--no-asgd --nonmono 5 --name plain")
    assert all(torch.equal(iterates[6][name], plain[6][name]) for name in plain[6]), "training itself is the same"


def test_the_exponential_mean_begins_anew_with_the_equilibrium(place, tmp_path):
    losses = (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    outcome, iterates = trained(place, tmp_path, "--no-asgd --nonmono 5 --ema 0.9 --pretrain_steps 3", losses)
    assert_close(outcome.weights, exponential(iterates, 0.9, range(4, 7)))


def test_a_run_with_an_exponential_mean_goes_on_to_the_same_bits(place, tmp_path):
    more = "--no-asgd --nonmono 5 --ema 0.9"
    whole, _ = trained(place, tmp_path, f"{more} --name whole", (6.0, 5.0, 4.0, 3.0, 2.0, 1.0))
    with signal_in_update(3):
        part, _ = trained(place, tmp_path, f"{more} --name part", (6.0, 5.0, 4.0))
    with validating(4.0, 3.0, 2.0, 1.0):
        resumed = restart(part.folder)
    assert resumed.status == 0, resumed.err
    assert resumed.same_weights(whole)
    assert_close(content(resumed.folder)["average"]["weights"], content(whole.folder)["average"]["weights"])


def test_two_means_at_once_are_refused(place):
    words = f"--data {place}/corpus --dataset text --work_dir {place}/R- {MODEL} {LENGTHS} {RUN} --ema 0.9"
    outcome = call(words)
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "--ema 0.9 has no effect without --no-asgd" in outcome.err
