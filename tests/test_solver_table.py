"""Every solver on every problem of the table, in every dtype and at every scale: it gets there or says why not."""

from functools import cache, partial

import pytest
import torch
from problems import PROBLEMS, Problem, conditioning

from modules.report import Termination
from modules.solvers import anderson, broyden, fixed_point

SOLVERS = {
    "broyden": broyden,
    "broyden_4": partial(broyden, history=4),
    "anderson": anderson,
    "fixed_point": fixed_point,
}
EPS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 3e-2}
SCALES = (1e-6, 1.0, 1e6)
THRESHOLD = 150
WITHOUT_EQUILIBRIUM = {"jump", "not_a_number"}
EXPANDING = {"expanding", "stiff"}  # plain iteration cannot converge
# What need not converge within the threshold; all else must.
EXCUSED = {
    *(("fixed_point", name) for name in EXPANDING),
    ("fixed_point", "rotation"),  # 0.9 to the power of the threshold is above eps in double precision
    ("broyden_4", "rotation"),  # six dimensions do not fit into four pairs
    ("broyden_4", "non_normal"),
    ("broyden_4", "stiff"),
    ("broyden", "stiff"),  # in low precision full steps leave the region where it could converge
    ("anderson", "stiff"),
}


@cache
def exact(name: str) -> tuple[Problem, float]:
    """The float64 problem and its conditioning."""
    problem = PROBLEMS[name](torch.float64).flattened()
    return problem, conditioning(problem) if problem.equilibrium is not None else float("nan")


def relative_residual(problem: Problem, z: torch.Tensor) -> float:
    fz = problem.f(z)
    return ((fz - z).norm() / fz.norm()).item()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gets_there_or_says_why_not(solver, name, dtype, scale):
    problem = PROBLEMS[name](dtype).flattened().scaled(scale)
    calls = 0

    def f(z):
        nonlocal calls
        calls += 1
        return problem.f(z)

    result = SOLVERS[solver](f, problem.start, threshold=THRESHOLD, eps=EPS[dtype])
    report, value = result.report, result.value
    assert (value.dtype, value.shape) == (dtype, problem.start.shape)
    assert value.isfinite().all()
    assert calls == report.n_evals <= THRESHOLD + 1
    assert report.rel_residual == min(report.rel_trace[report.best_step], report.rel_trace[0])
    assert report.rel_residual <= report.rel_trace[0]
    converged = report.termination is Termination.CONVERGED
    if dtype == torch.bfloat16 and name == "non_normal" and report.termination is Termination.RUNAWAY:
        return  # its state grows a hundredfold, after which such a residual cannot be told from rounding
    assert converged == (report.rel_residual < EPS[dtype])
    if name in WITHOUT_EQUILIBRIUM:
        assert not converged
        return
    assert converged or (solver, name) in EXCUSED

    # the report is honest: the residual of the exact map at the returned value is the one stated, but for rounding
    in_double, condition = exact(name)
    z = value.double() / scale
    rounding = 20 * torch.finfo(dtype).eps * (1 + 100 * (name == "stiff"))  # its map is a hundred times steeper
    residual = relative_residual(in_double, z)
    assert abs(residual - report.rel_residual) < rounding + 0.02 * residual
    if converged:
        allowed = 2 * condition * (report.rel_residual + rounding) * in_double.f(z).norm()
        assert (z - in_double.equilibrium).norm() < allowed


@pytest.mark.parametrize("name", ["jump", "not_a_number"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_reasons_of_failure(solver, name):
    problem = PROBLEMS[name](torch.float64)
    report = SOLVERS[solver](problem.f, problem.start, threshold=20, eps=1e-6, stop_mode="abs").report
    if name == "not_a_number":
        assert (report.termination, report.n_evals) == (Termination.NONFINITE, 2)
    else:
        assert report.termination in (Termination.MAX_STEPS, Termination.DIVERGED)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["diagonal", "tanh", "transformer", "expanding"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_do_not_depend_on_the_scale(solver, name, scale):
    """By default no solver has an absolute constant that shows; a power of two keeps the rounding the same."""
    problem = PROBLEMS[name](torch.float64)
    scale = 2.0 ** round(torch.tensor(scale).log2().item())
    reference, scaled = (
        SOLVERS[solver](p.f, p.start, threshold=60, eps=1e-6) for p in (problem, problem.scaled(scale))
    )
    assert scaled.report.n_evals == reference.report.n_evals
    torch.testing.assert_close(scaled.value / scale, reference.value, rtol=1e-6, atol=1e-9)


def test_the_published_ridge_stalls_at_small_scales_and_the_relative_one_does_not():
    problem = PROBLEMS["transformer"](torch.float64).scaled(1e-3)
    published, relative = (anderson(problem.f, problem.start, threshold=40, eps=1e-6, lam=lam) for lam in (1e-4, None))
    assert published.report.termination is Termination.MAX_STEPS
    assert relative.report.termination is Termination.CONVERGED
