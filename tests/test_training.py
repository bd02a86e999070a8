"""Updates: chunks that add up, stages, rates, the best model, and what stops a run."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from data_utils import OrderedBatches
from modules.deq import SolveInfo
from modules.tracker import SolveReport, Termination
from utils.errors import UserError
from utils.evaluation import EVAL_ROWS
from utils.experiment import Experiment
from utils.settings import Settings
from utils.training import Trainer

N_TOKEN = 7
REPORT = SolveReport(Termination.CONVERGED, 3, 4, 0, "rel", (1.0,), (0.5,))


class Bigram(nn.Module):
    """log p(next | token) from a table, plus the memory's count of segments times a parameter."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.word_emb = nn.Embedding(N_TOKEN, N_TOKEN, dtype=dtype)
        self.drift = nn.Parameter(torch.zeros(N_TOKEN, dtype=dtype))
        self.calls = []

    def forward(self, tokens, targets, memory=None, *, n_layer=None):
        count = torch.zeros(tokens.shape[1]) if memory is None else memory
        self.calls.append((tokens.shape[1], float(count[0]), n_layer))
        logits = self.word_emb(tokens) + count[:, None] * self.drift
        nll = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        solve = SolveInfo(REPORT, REPORT) if n_layer is None else None
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
    assert whole.seconds > 0


def test_every_chunk_has_its_own_memory_and_it_restarts_with_an_epoch():
    run = trainer(n_tokens=5 * 13, batch_chunk=2, max_step=5)  # 2 segments an epoch
    run.train()
    in_training = [call for call in run.model.calls if call[0] in (2, 3)]
    assert [memory for _, memory, _ in in_training] == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert run.epoch == 3


def test_stage_of_updates_and_validations():
    run = trainer(pretrain_steps=3, n_layer=9, eval_interval=2, max_step=5)
    run.train()
    layers = [(rows == EVAL_ROWS, n_layer) for rows, _, n_layer in run.model.calls]
    updates = [n_layer for validation, n_layer in layers if not validation]
    assert updates == [9, 9, 9, None, None]
    changes = [item for item, before in zip(layers, [None, *layers], strict=False) if item != before]
    shallow, equilibrium = [(False, 9), (True, 9)], [(False, None), (True, None)]
    assert changes == [*shallow, *shallow, *equilibrium, *equilibrium]
    assert run.after_shallow.shallow == 9
    assert run.best.shallow is None, "the search for the best model starts again with the equilibrium"


def test_rates_that_the_updates_use():
    run = trainer(scheduler="cosine", lr=0.4, warmup_step=3, max_step=6)
    used = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (used.append(run.optimizer.param_groups[0]["lr"]), step())
    run.train()
    warm = [0.4 / 3, 0.4 / 3, 0.8 / 3]
    assert used == pytest.approx(warm + [0.2 * (1 + math.cos(math.pi * s / 6)) for s in (3, 4, 5)])


def test_dev_perf_lowers_the_rate_from_the_end_of_the_warmup():
    run = trainer(scheduler="dev_perf", lr=1e-9, warmup_step=2, eval_interval=1, max_step=6, decay_rate=0.5)
    rates = []
    validate = run.validate
    run.validate = lambda: (validate(), rates.append(run.optimizer.param_groups[0]["lr"]))
    run.train()
    assert rates == pytest.approx([0.5e-9, 1e-9, 0.5e-9, 0.25e-9, 0.125e-9, 0.0625e-9])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_weights(value):
    run = trainer(max_step=9)
    forward = run.model.forward

    def break_down(*arguments, **options):
        output = forward(*arguments, **options)
        output.nll = output.nll * (value if run.step == 2 else 1)
        return output

    run.model.forward = break_down
    with pytest.raises(UserError, match=r"^step 3: the loss is (nan|inf) .*: lower --lr"):
        run.train()
    assert run.step == 2
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


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
