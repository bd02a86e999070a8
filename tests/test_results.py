"""The table at the end of a run."""

import dataclasses
import json
import math

import pytest

from evaluation.report import EvaluationReport, SpectralRadius
from evaluation.solve_statistics import SolveSummary
from training.results import RunResults
from training.telemetry import TrainingTotals

TEST = EvaluationReport(
    split="test",
    loss=2.0,
    n_tokens=100,
    n_segments=5,
    rows=4,
    segment=8,
    memory=8,
    shallow=None,
    solve=SolveSummary(
        solver="broyden",
        options={"history": None, "ridge": None},
        threshold=12,
        eps=1e-3,
        stop_mode="rel",
        stop_scope="batch",
        steps=7.25,
        evaluations=8.25,
        residual=6.5e-4,
        unconverged=0.3,
        stopped={"converged": 0.75, "max_steps": 0.25, "diverged": 0.0},
    ),
    radius=SpectralRadius(mean=0.5, max=0.75, n_sequences=40, n_segments=10),
    seconds=2.0,
)
VALID = dataclasses.replace(TEST, split="valid", loss=1.0)
SHALLOW = dataclasses.replace(VALID, loss=3.0, shallow=2, solve=None)


def results(**options):
    given = {
        "unigram": {"valid": math.log(50.5), "test": math.log(60.25)},
        "after_shallow": SHALLOW,
        "valid": VALID,
        "test": TEST,
        "training": TrainingTotals(updates=1200, tokens=6000, seconds=3.0, failed_backward_solves=0),
        "peak_memory": {"host": 1_500_000_000, "device": 2_000_000_000},
    }
    return RunResults(**(given | options))


def test_table():
    assert str(results()).splitlines() == [
        "perplexity                  valid       test",
        "  unigram model             50.50      60.25",
        "  after shallow stage       20.09",
        "  final                      2.72       7.39",
        "solver on test         7.2 steps, residual 6.5e-04 (75% converged, 25% max steps)",
        "training               1,200 updates in 3 s, 2,000 tokens/s",
        "peak memory            1.50 GB on the host, 2.00 GB on the device",
    ]


def test_table_of_a_run_that_stayed_in_one_stage():
    rows = str(results(after_shallow=None)).splitlines()
    assert rows[2].split()[-1] == "-"
    assert "none: 2 applications" in str(results(valid=SHALLOW, test=dataclasses.replace(SHALLOW, split="test")))


def test_table_tells_of_failed_backward_solves():
    totals = TrainingTotals(updates=1200, tokens=6000, seconds=3.0, failed_backward_solves=7)
    assert "2,000 tokens/s, 7 backward solves failed" in str(results(training=totals))


def test_results_are_json():
    content = json.loads(json.dumps(results().as_dict()))
    assert content["test"]["perplexity"] == pytest.approx(7.389, abs=1e-3)
    assert content["shallow_stage"]["shallow"] == 2
    assert content["training"] == {
        "updates": 1200,
        "tokens": 6000,
        "seconds": 3.0,
        "failed_backward_solves": 0,
        "skipped_updates": 0,
        "tokens_per_second": 2000.0,
    }
    assert content["test"]["radius"]["max"] == 0.75
    assert content["unigram_perplexity"]["test"] == pytest.approx(60.25)
    assert content["peak_memory_bytes"]["host"] == 1_500_000_000
    assert results(after_shallow=None).as_dict()["shallow_stage"] is None


def test_residual_of_an_iterate_that_was_never_evaluated():
    unknown = dataclasses.replace(TEST, solve=dataclasses.replace(TEST.solve, residual=float("inf")))
    assert "7.2 steps, residual unknown (" in str(results(test=unknown))
    assert "residual unknown\n    stopped: " in str(unknown)


def test_no_time_at_all_is_no_division_by_zero():
    assert TrainingTotals(updates=0, tokens=0, seconds=0.0, failed_backward_solves=0).tokens_per_second == 0
