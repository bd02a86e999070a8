"""Perplexities: of a model whose losses are known, and of unigram models counted by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reports import solve_report
from torch import nn

from config.settings import Settings
from data.batches import OrderedBatches
from data.measure import perplexity
from evaluation.evaluation import EVAL_ROWS, evaluate, is_under
from evaluation.report import EvaluationReport
from evaluation.unigram import unigram_counts, unigram_loss
from modules.depth import Applications
from modules.deq import DEQModule

SOLVES = DEQModule(f_thres=3)
REPORT = solve_report(sequence_residuals=(1e-4, 1e-4, 0.5, float("inf")))


class Known(nn.Module):
    """Scores each target with its own value, and tells segments apart by a memory that counts them."""

    memory_length = 5

    def __init__(self):
        super().__init__()
        self.calls = []

    def problem(self, tokens, memory):
        """A linear map whose Jacobians have the spectral radii 1, 2, 3 and the memory."""
        radii = torch.tensor([1.0, 2.0, 3.0, memory or 0])
        return lambda z: z * radii[:, None], torch.ones(4, 1)

    def forward(self, tokens, targets, memory, depth):
        self.calls.append((tokens.shape[0], memory, depth, self.training, torch.is_grad_enabled()))
        solve = None if isinstance(depth, Applications) else SimpleNamespace(forward=REPORT)
        return SimpleNamespace(nll=targets.float(), memory=(memory or 0) + 1, solve=solve)


def batches(n_tokens: int, length: int) -> tuple[np.ndarray, OrderedBatches]:
    ids = np.random.RandomState(0).randint(0, 9, n_tokens).astype(np.int32)
    return ids, OrderedBatches(ids, EVAL_ROWS, length)


def test_loss_is_the_mean_over_all_targets_however_segments_are_cut():
    ids, segments = batches(4 * 26 + 3, 7)  # 25 targets a row: 7 + 7 + 7 + 4
    model = Known()
    report = evaluate(model, segments, "valid", Settings(eval_tgt_len=7), SOLVES)
    assert report.loss == pytest.approx(ids[: 4 * 26].reshape(4, 26)[:, 1:].mean(), rel=1e-12)
    assert report.perplexity == pytest.approx(math.exp(report.loss))
    assert (report.n_tokens, report.n_segments, report.rows) == (100, 4, 4)
    assert [call[:2] for call in model.calls] == [(7, None), (7, 1), (7, 2), (4, 3)]
    assert not any(training or grad for *_, training, grad in model.calls)
    assert model.training


def test_report_names_what_the_number_depends_on():
    _, segments = batches(400, 7)
    settings = Settings(eval_tgt_len=7, solver="broyden", f_thres=9, f_eps=0.01, stop_mode="abs")
    text = str(evaluate(Known(), segments, "test", settings, SOLVES))
    for part in (
        "test: perplexity",
        "396 tokens scored in 4 rows, 15 segments of 7, memory 5",
        "broyden, threshold 9 steps, eps 0.01, stop mode abs, stop scope batch",
        "3.0 steps, 4.0 evaluations, residual 5.00e-01",
        "stopped: 100% converged; 50.0% of sequences not converged",
        "tokens/s",
    ):
        assert part in text


@pytest.mark.parametrize(
    "change",
    [
        {"eval_tgt_len": 8},
        {"solver": "anderson"},
        {"f_thres": 10},
        {"f_eps": 0.1},
        {"stop_mode": "rel"},
        {"stop_scope": "sequence"},
        {"f_history": 4},
        {"amp": "bf16"},
    ],
    ids=str,
)
def test_a_report_is_of_the_settings_that_it_was_made_under(change):
    _, segments = batches(400, 7)
    settings = Settings(eval_tgt_len=7, solver="broyden", f_thres=9, f_eps=0.01, stop_mode="abs", f_history=3)
    report = EvaluationReport.of(evaluate(Known(), segments, "valid", settings, SOLVES).state())
    assert is_under(report, settings, Known.memory_length)
    assert not is_under(report, replace(settings, **change), Known.memory_length)
    assert not is_under(report, settings, Known.memory_length + 1)


def test_a_report_of_an_older_program_is_of_solves_in_full_precision():
    _, segments = batches(400, 7)
    settings = Settings(eval_tgt_len=7)
    state = evaluate(Known(), segments, "valid", settings, SOLVES).state()
    del state["amp"]
    report = EvaluationReport.of(state)
    asked = (replace(settings, amp=precision) for precision in ("off", "bf16"))
    assert [is_under(report, one, Known.memory_length) for one in asked] == [True, False]


def test_shallow_report_and_limited_segments():
    _, segments = batches(400, 7)
    report = evaluate(Known(), segments, "valid", Settings(eval_tgt_len=7, max_eval_steps=3), Applications(6))
    assert (report.n_segments, report.n_tokens, report.solve) == (3, 84, None)
    assert "shallow: 6 applications" in str(report)
    assert "broyden" not in str(report)


def test_history_and_ridge_are_named_where_they_are_set():
    _, segments = batches(400, 7)
    text = str(evaluate(Known(), segments, "test", Settings(f_history=5, anderson_ridge=1e-4), SOLVES))
    assert "anderson, history 5, ridge 0.0001, threshold 50 evaluations" in text


def test_spectral_radius_is_that_of_segments_spread_over_the_split():
    _, segments = batches(4 * 141, 7)  # 20 segments: those from 0 in steps of 2
    report = evaluate(Known(), segments, "valid", Settings(spectral_radius=True), SOLVES)
    assert (report.radius.n_segments, report.radius.n_sequences) == (10, 40)
    assert report.radius.max == 18.0
    assert report.radius.mean == pytest.approx((6 + np.mean(range(0, 20, 2))) / 4)
    assert "mean 3.750, max 18.000 over 40 sequences of 10 segments" in str(report)
    assert report.scalars()["valid/spectral_radius/max"] == 18.0
    assert report.scalars()["valid/unconverged_sequences"] == 0.5

    short = evaluate(Known(), segments, "valid", Settings(spectral_radius=True, max_eval_steps=3), SOLVES)
    assert short.radius.n_segments == 3
    assert evaluate(Known(), segments, "valid", Settings(spectral_radius=True), Applications(2)).radius is None
    without = evaluate(Known(), segments, "valid", Settings(), SOLVES)
    assert without.radius is None
    assert "valid/spectral_radius/max" not in without.scalars()


def test_evaluation_draws_no_random_numbers():
    _, segments = batches(400, 7)
    before = torch.get_rng_state()
    evaluate(Known(), segments, "valid", Settings(), SOLVES)
    assert torch.equal(torch.get_rng_state(), before)


def test_perplexity_too_large_for_a_float_is_inf():
    assert perplexity(1e4) == math.inf
    assert f"{perplexity(1e4):.2f}" == "inf"
    assert perplexity(0.0) == 1.0


def test_unigram_loss_by_hand():
    train, split = np.array([0, 1, 1, 2], dtype=np.int32), np.array([1, 3], dtype=np.int32)
    # counts + 1: 2, 3, 2, 1 out of 4 + 4
    assert unigram_loss(train, split, 4) == pytest.approx(-math.log(3 / 8 * 1 / 8) / 2, rel=1e-12)


def test_unigram_counts_in_blocks(monkeypatch):
    monkeypatch.setattr("evaluation.unigram.COUNT_BLOCK", 7)
    ids = np.random.RandomState(0).randint(0, 5, 100).astype(np.int32)
    assert unigram_counts(ids, 9).tolist() == np.bincount(ids, minlength=9).tolist()
