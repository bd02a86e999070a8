"""The report of a solve that was shared out is that of the whole solve."""

import dataclasses
import math

import pytest
import torch
from reports import solve_report

from evaluation.divided_solves import whole_solve
from modules.report import SolveReport
from modules.solvers import anderson, broyden

GAIN = torch.tensor([0.1, 0.5, 0.9, 1.2, 0.3], dtype=torch.float64).unsqueeze(1)  # rows that converge unlike each other
OFFSET = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)


def solved(solver, stop_mode: str, rows: slice = slice(None)) -> SolveReport:
    def f(z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(GAIN[rows] * z.flip(1) + OFFSET[rows])

    start = torch.zeros_like(OFFSET[rows])
    return solver(f, start, threshold=6, eps=1e-3, stop_mode=stop_mode, stop_scope="sequence").report


@pytest.mark.parametrize("stop_mode", ["rel", "abs"])
@pytest.mark.parametrize("solver", [anderson, broyden])
def test_sequences_that_stop_on_their_own(solver, stop_mode):
    whole = solved(solver, stop_mode)
    parts = [solved(solver, stop_mode, rows) for rows in (slice(0, 2), slice(2, 3), slice(3, 5))]
    assert len({part.n_steps for part in parts}) > 1
    report = whole_solve(parts)
    for name in ("abs_residual", "rel_residual", "sequence_residuals"):
        assert getattr(report, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    without = {"abs_trace": (), "rel_trace": (), "abs_residual": 0, "rel_residual": 0, "sequence_residuals": ()}
    assert dataclasses.replace(report, **without) == dataclasses.replace(whole, **without)


def test_parts_that_stopped_together_know_the_whole():
    parts = [solve_report(residual=0.25, sequence_residuals=own) for own in ((0.1, 0.2), (1e-4,))]
    report = whole_solve(parts)
    assert (report.abs_residual, report.rel_residual, report.n_unconverged) == (0.5, 0.25, 2)
    assert report.sequence_residuals == (0.1, 0.2, 1e-4)


@pytest.mark.parametrize(("residuals", "whole"), [((0.0, 0.5), 0.5), ((0.0, 0.0), 0.0), ((math.inf, 0.5), math.inf)])
def test_parts_that_are_exact_or_not_finite(residuals, whole):
    reports = [dataclasses.replace(solve_report(residual=residual), stop_scope="sequence") for residual in residuals]
    assert whole_solve(reports).rel_residual == pytest.approx(whole)
