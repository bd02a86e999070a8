"""Updates: chunks that add up, stages, rates, the best model, and what stops a run."""

import math
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diverging import validating
from reports import solve_report
from torch import nn

from config.settings import Settings
from data.batches import OrderedBatches
from evaluation.evaluation import EVAL_ROWS
from modules.depth import Applications
from modules.report import SolveInfo, Termination
from runs.experiment import Experiment
from system.errors import UserError
from training.jacobian_penalty import JacobianPenalty
from training.trainer import ENTRIES, Trainer

N_TOKEN = 7
PENALTY = 0.01  # per sequence
FAILED = (
    solve_report(Termination.NONFINITE),
    solve_report(Termination.DIVERGED, residual=0.9),
    solve_report(Termination.MAX_STEPS, residual=1.5),
)


class Bigram(nn.Module):
    """log p(next | token) from a table, plus the memory's count of segments times a parameter."""

    memory_length = 1

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.word_emb = nn.Embedding(N_TOKEN, N_TOKEN, dtype=dtype)
        self.drift = nn.Parameter(torch.zeros(N_TOKEN, dtype=dtype))
        self.calls = []
        self.samples = []
        self.backward_report = solve_report()

    def embedding_parameters(self):
        return self.word_emb.parameters()

    def problem(self, tokens, memory):
        """z = (z + 1) / 2 from 0: its first two relative residuals are 1 and 1/3."""
        return lambda z: (z + 1) / 2, torch.zeros(tokens.shape[1], 1)

    def forward(self, tokens, targets, memory, depth):
        count = torch.zeros(tokens.shape[1]) if memory is None else memory
        jacobian_samples = depth.keywords["jacobian_samples"] if isinstance(depth, partial) else 0
        n_layer = depth.n if isinstance(depth, Applications) else None
        self.calls.append((tokens.shape[1], float(count[0]), n_layer))
        logits = self.word_emb(tokens) + count[:, None] * self.drift
        nll = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        solve = SolveInfo(solve_report(), self.backward_report) if n_layer is None else None
        if self.training:
            self.samples.append(jacobian_samples)
        if jacobian_samples:
            assert solve is not None
            solve.jacobian_loss = PENALTY * tokens.shape[1] * (self.drift - 1).square().sum()
        return SimpleNamespace(nll=nll.view(targets.shape), memory=count + 1, solve=solve)


def trainer(model=None, *, rows: int = 5, n_tokens: int = 300, **changes) -> Trainer:
    """A trainer that writes nothing."""
    torch.manual_seed(0)
    settings = Settings(**{"debug": True, "batch_size": rows, "tgt_len": 6, "max_step": 4, **changes})
    ids = np.random.RandomState(0).randint(0, N_TOKEN, n_tokens).astype(np.int32)
    train, valid = OrderedBatches(ids, rows, 6), OrderedBatches(ids[:90], EVAL_ROWS, 6)
    return Trainer(model or Bigram(), settings, train, valid, Experiment(settings))


@pytest.mark.parametrize("n_chunks", [2, 3, 5])
def test_chunks_make_the_same_updates_even_where_rows_do_not_divide(n_chunks):
    whole, parts = (trainer(batch_chunk=n, optim="SGD", lr=1.0) for n in (1, n_chunks))
    for run in (whole, parts):
        run.train()
    assert len({rows for rows, *_ in parts.model.calls[:n_chunks]}) == (1 if n_chunks == 5 else 2)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert whole.telemetry.totals.seconds > 0


def test_every_chunk_has_its_own_memory_and_it_restarts_with_an_epoch():
    run = trainer(n_tokens=5 * 13, batch_chunk=2, max_step=5)  # 2 segments an epoch
    run.train()
    in_training = [call for call in run.model.calls if call[0] in (2, 3)]
    assert [memory for _, memory, _ in in_training] == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert run.progress.epoch == 3


def test_stage_of_updates_and_validations():
    run = trainer(pretrain_steps=3, n_layer=9, eval_interval=2, max_step=5)
    run.train()
    layers = [(rows == EVAL_ROWS, n_layer) for rows, _, n_layer in run.model.calls]
    updates = [n_layer for validation, n_layer in layers if not validation]
    assert updates == [9, 9, 9, None, None]
    changes = [item for item, before in zip(layers, [None, *layers], strict=False) if item != before]
    shallow, equilibrium = [(False, 9), (True, 9)], [(False, None), (True, None)]
    assert changes == [*shallow, *shallow, *equilibrium, *equilibrium]
    assert run.shallow_stage.report.shallow == 9
    assert run.best.report.shallow is None, "the search for the best model starts again with the equilibrium"


def test_rates_that_the_updates_use():
    run = trainer(scheduler="cosine", lr=0.4, warmup_step=3, max_step=6)
    used = []
    step = run.updater.optimizer.step
    run.updater.optimizer.step = lambda: (used.append(run.updater.optimizer.param_groups[0]["lr"]), step())
    run.train()
    warm = [0.4 / 3, 0.4 / 3, 0.8 / 3]
    assert used == pytest.approx(warm + [0.2 * (1 + math.cos(math.pi * s / 6)) for s in (3, 4, 5)])


def test_dev_perf_lowers_the_rate_from_the_end_of_the_warmup():
    run = trainer(scheduler="dev_perf", lr=1e-9, warmup_step=2, eval_interval=1, max_step=6, decay_rate=0.5)
    rates = []
    validate = run.validate
    run.validate = lambda: (validate(), rates.append(run.updater.optimizer.param_groups[0]["lr"]))
    run.train()
    assert rates == pytest.approx([0.5e-9, 1e-9, 0.5e-9, 0.25e-9, 0.125e-9, 0.0625e-9])


def test_annealing_compares_validations_of_one_stage_alone_and_after_the_warmup():
    run = trainer(scheduler="constant", lr=0.4, anneal=1, warmup_step=2, pretrain_steps=3, eval_interval=1, max_step=7)
    rates = []
    validate = run.validate
    run.validate = lambda: (validate(), rates.append(run.updater.optimizer.param_groups[0]["lr"]))
    with validating(0.5, 1.0, 2.0, 3.0, 2.0, 4.0, 4.0):
        run.train()
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4, 0.04, 0.04])


def broken_in(run: Trainer, steps: set[int], value: float) -> Trainer:
    """The losses and memories of these updates are `value`."""
    forward = run.model.forward

    def break_down(*arguments, **options):
        output = forward(*arguments, **options)
        if run.progress.step in steps and run.model.training:
            output.nll, output.memory = output.nll * value, output.memory * value
        return output

    run.model.forward = break_down
    return run


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_skipped_counted_and_shown(value, capsys):
    run = broken_in(trainer(max_step=9, log_interval=4, max_bad_steps=2), {2, 3, 5}, value)
    before = []
    between = run._between_updates
    run._between_updates = lambda: (before.append(run.model.word_emb.weight.detach().clone()), between())
    run.settings = replace(run.settings, max_bad_steps=3)
    run.train()
    assert run.progress.step == 9
    same = [torch.equal(a, b) for a, b in pairwise(before)]
    assert [i + 1 for i, unmoved in enumerate(same) if unmoved] == [2, 3, 5]
    assert run.telemetry.totals.skipped_updates == 3
    out = capsys.readouterr().out
    assert re.search(
        r"^\d\d:\d\d:\d\d step 3 update skipped: loss \S+, gradient nan \(1 in a row, --max_bad_steps 3\)", out, re.M
    )
    assert " step 4 update skipped: " in out
    assert "(2 in a row, --max_bad_steps 3)" in out
    assert re.search(r" step 4 loss .* 2 skipped grad ", out)
    assert re.search(r"^ {9}updates  6, 3 skipped, epoch ", out, re.M), "with the validation, since the start"
    assert all(torch.as_tensor(memory).isfinite().all() for memory in run.memory.chunks)


def test_too_many_such_updates_in_a_row_stop_the_run():
    run = broken_in(trainer(max_step=9, max_bad_steps=2), {1, 3, 4, 5}, math.nan)
    with pytest.raises(UserError, match=r"^step 5: 2 updates in a row had a loss .*: lower --lr"):
        run.train()
    assert run.progress.step == 5
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_memory_that_is_too_small_names_the_flag_that_spares_it():
    run = trainer(max_step=9)

    def too_much(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    run.model.forward = too_much
    with pytest.raises(UserError, match=r"^step 1: the update does not fit into the memory: --batch_chunk 2"):
        run.train()


def test_best_model_is_the_one_that_is_restored():
    run = trainer(max_step=12, eval_interval=1, optim="SGD", lr=60.0, scheduler="constant", clip=1e3)
    seen = []
    validate = run.validate
    run.validate = lambda: seen.append((validate().loss, run.model.word_emb.weight.detach().clone()))
    run.train()
    losses = [loss for loss, _ in seen]
    best = min(range(len(seen)), key=losses.__getitem__)
    assert 0 <= best < len(seen) - 1, "the last model must not be the best, or nothing is tested"
    assert run.restore_best().loss == losses[best]
    assert torch.equal(run.model.word_emb.weight, seen[best][1])


def test_penalty_is_drawn_by_step_and_raised_at_intervals():
    settings = Settings(jac_loss_weight=1.6, jac_loss_freq=0.4, jac_incremental=10, jac_samples=3, seed=5)
    penalty = JacobianPenalty.of(settings)
    drawn = [penalty.at(step) for step in range(2000)]
    charged = [step for step in range(2000) if drawn[step]]
    assert {drawn[step].samples for step in charged} == {3}
    assert abs(len(charged) / 2000 - 0.4) < 0.04
    assert [penalty.at(step) for step in (7, 3, 1999)] == [drawn[7], drawn[3], drawn[1999]]
    other = JacobianPenalty.of(replace(settings, seed=6))
    assert [step for step in range(2000) if other.at(step)] != charged
    always = JacobianPenalty.of(replace(settings, jac_loss_freq=1.0))
    assert [always.at(step).weight for step in (0, 9, 10, 35)] == pytest.approx([1.6, 1.6, 1.7, 1.9])
    unraised = JacobianPenalty.of(replace(settings, jac_loss_freq=1.0, jac_incremental=0))
    assert unraised.at(10**6).weight == 1.6
    assert not any(JacobianPenalty.of(Settings()).at(step) for step in range(100))


@pytest.mark.parametrize("n_chunks", [1, 2])
def test_penalty_joins_the_loss_of_equilibrium_updates_alone(n_chunks):
    run = trainer(
        jac_loss_weight=2.0, jac_loss_freq=1.0, jac_samples=4, pretrain_steps=1, batch_chunk=n_chunks,
        optim="SGD", lr=1.0, scheduler="constant", clip=1e9, max_step=2, n_tokens=60,
    )  # fmt: skip
    before = []
    update = run.update
    run.update = lambda *given: (before.append(run.model.drift.detach().clone()), update(*given))[1]
    run.train()
    assert run.model.samples == [0] * n_chunks + [4] * n_chunks
    # The memory is 0 in the first update: without the penalty the drift's gradient is 0.
    assert torch.equal(before[0], before[1])


def test_penalty_is_weighted_by_the_share_of_each_chunk():
    given = {"jac_loss_weight": 2.0, "jac_loss_freq": 1.0, "optim": "SGD", "lr": 0.1, "scheduler": "constant"}
    run = trainer(batch_chunk=2, clip=1e9, max_step=1, **given)
    run.train()
    # Chunks of 3 and 2 of 5 rows: Σ share · rows = (9 + 4) / 5; memory is 0, so that nothing else moves the drift.
    gradient = 2.0 * PENALTY * (9 + 4) / 5 * 2 * (0 - 1)
    torch.testing.assert_close(run.model.drift.detach(), torch.full_like(run.model.drift, -0.1 * gradient))


def test_penalty_has_a_curve_and_stays_out_of_the_loss():
    with_penalty, without = (trainer(jac_loss_weight=weight, jac_loss_freq=1.0, max_step=1) for weight in (2.0, 0.0))
    losses = []
    for run in (with_penalty, without):
        run.experiment.scalars = lambda values, step: losses.append(values) if "train/loss" in values else None
        run.train()
    assert losses[0]["train/loss"] == losses[1]["train/loss"]
    assert losses[0]["train/jacobian_loss"] == pytest.approx(PENALTY * 5 * N_TOKEN)
    assert "train/jacobian_loss" not in losses[1]


@pytest.mark.parametrize("report", FAILED, ids=[str(report.termination.name) for report in FAILED])
def test_backward_solves_that_fail_are_counted_and_warned_about(report, capsys):
    run = trainer(log_interval=2, max_step=4)
    curves = []
    run.experiment.scalars = lambda values, step: curves.append(values.get("backward/failed"))
    run.model.backward_report = report
    run.train()
    warnings = re.findall(r"^\d\d:\d\d:\d\d (step . warning: .*\n {9}.*)", capsys.readouterr().out, re.M)
    assert [line.partition(":")[0] for line in warnings] == ["step 2 warning", "step 4 warning"]
    assert "2 of 2 backward solves failed" in warnings[0]
    assert report.termination.name.lower().replace("_", " ") in warnings[0]
    assert run.telemetry.totals.failed_backward_solves == 4
    assert curves[0] == 1.0


def test_sound_backward_solves_are_not_warned_about(capsys):
    run = trainer()
    run.model.backward_report = solve_report(Termination.MAX_STEPS, residual=1.0)
    run.train()
    assert "warning" not in capsys.readouterr().out
    assert run.telemetry.totals.failed_backward_solves == 0


def test_validations_of_the_equilibrium_have_a_probe(capsys):
    run = trainer(pretrain_steps=2, eval_interval=1, max_step=4, f_thres=2)
    points = []
    run.experiment.scalars = lambda values, step: points.append(
        (step, {name: value for name, value in values.items() if name.startswith("probe/")})
    )
    run.train()
    assert capsys.readouterr().out.count("         probe    rel residual by evaluation 1: 1.0e0, 2: 3.3e-1\n") == 2
    curve = {"probe/residual_after_1": 1.0, "probe/residual_after_2": pytest.approx(1 / 3)}
    assert [point for point in points if point[1]] == [(3, curve), (4, curve)]


def test_the_parts_of_a_run_save_the_entries_that_a_checkpoint_must_have():
    saved = [entry for part in trainer().parts for entry in part.state()]
    assert sorted(saved) == sorted(ENTRIES)
