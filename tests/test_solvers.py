"""The solvers: the original's iterates, textbook oracles, known equilibria, and every way to stop."""

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import PROBLEMS

from modules.broyden import History
from modules.report import Termination
from modules.solvers import SOLVERS, anderson, broyden
from modules.stop_rule import STAGNATION_WINDOW

GOLDEN = np.load(Path(__file__).parent / "golden" / "solvers.npz")
GOLDEN_RUNS = sorted(name.removesuffix("_result") for name in GOLDEN.files if name.endswith("_result"))
FIRST_GOLDEN_STEP = {"broyden": 1, "anderson": 2}  # the original's traces begin there
PUBLISHED_RIDGE = {"lam": 1e-4}


def golden_map(z):
    w, b = torch.from_numpy(GOLDEN["W"]), torch.from_numpy(GOLDEN["b"])
    return torch.tanh(torch.einsum("ij,bjl->bil", w, z) + b)


@pytest.mark.parametrize("run", GOLDEN_RUNS)
def test_iterates_are_the_originals(run):
    solver, threshold, mode, eps = re.fullmatch(r"(\w+?)_(?:m3\S*_)?thr(\d+)_(\w+)_eps(\S+)", run).groups()
    options = {"m": 3, "lam": 1e-6, "beta": 0.7} if "_m3_" in run else PUBLISHED_RIDGE
    options = options if solver == "anderson" else {}
    result = SOLVERS[solver](**options)(
        golden_map, torch.from_numpy(GOLDEN["z0"]), threshold=int(threshold), eps=float(eps), stop_mode=mode
    )
    report = result.report
    assert np.abs(result.value.numpy() - GOLDEN[f"{run}_result"]).max() < 1e-8
    assert report.best_step == GOLDEN[f"{run}_nstep"]
    assert report.residual == pytest.approx(float(GOLDEN[f"{run}_lowest"]), rel=1e-5)
    assert (report.termination is Termination.DIVERGED) == bool(GOLDEN[f"{run}_prot_break"])
    for trace, kind in ((report.abs_trace, "abs"), (report.rel_trace, "rel")):
        trace, golden = np.array(trace[FIRST_GOLDEN_STEP[solver] :]), GOLDEN[f"{run}_{kind}_trace"]
        assert np.abs(trace / golden[: len(trace)] - 1).max() < 1e-5
        # after its stop the original pads with the lowest value, so what follows tells whether the stop is the same
        assert (golden[len(trace) :] == golden[len(trace) - 1 :].min()).all()


def dense_broyden(f, z0, steps):
    """Textbook iteration on one sequence, with the inverse Jacobian as a full matrix."""
    inverse = -torch.eye(z0.numel(), dtype=z0.dtype)
    z, g = z0, f(z0) - z0
    iterates = []
    for _ in range(steps):
        dz = -inverse @ g.flatten()
        z = z + dz.view_as(z)
        new = f(z) - z
        dg = (new - g).flatten()
        g = new
        iterates.append(z)
        inverse = inverse + torch.outer(dz - inverse @ dg, dz @ inverse) / (dz @ inverse @ dg)
    return iterates


@pytest.mark.parametrize("name", ["diagonal", "rotation", "non_normal", "tanh", "image"])
def test_broyden_is_the_textbook_update_for_each_sequence(name):
    problem = PROBLEMS[name](torch.float64)
    steps = 5
    visited = []

    def f(z):
        visited.append(z)
        return problem.f(z)

    broyden(f, problem.start, threshold=steps, eps=0)
    for row in range(len(problem.start)):

        def f_row(z, row=row):
            batch = problem.start.clone()
            batch[row] = z
            return problem.f(batch)[row]

        for z, expected in zip(visited[1:], dense_broyden(f_row, problem.start[row], steps), strict=True):
            torch.testing.assert_close(z[row], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_anderson_minimises_the_mixed_residual(beta):
    problem = PROBLEMS["tanh"](torch.float64)
    xs, fs = [], []

    def f(z):
        xs.append(z.flatten(1))
        fs.append(problem.f(z).flatten(1))
        return problem.f(z)

    m, lam = 3, 1e-6
    anderson(f, problem.start, threshold=8, eps=0, m=m, lam=lam, beta=beta)
    for k in range(2, 8):
        for row in range(len(problem.start)):
            x = torch.stack([x[row] for x in xs[max(0, k - m) : k]])
            fx = torch.stack([y[row] for y in fs[max(0, k - m) : k]])
            gram = (fx - x) @ (fx - x).t() + lam * torch.eye(len(x), dtype=x.dtype)
            alpha = torch.linalg.solve(gram, torch.ones(len(x), dtype=x.dtype))
            alpha = alpha / alpha.sum()
            torch.testing.assert_close(xs[k][row], beta * alpha @ fx + (1 - beta) * alpha @ x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("solver", "name"), list(itertools.product(SOLVERS, ["diagonal", "rotation", "tanh", "image"]))
)
def test_contractions_converge_in_single_and_double_precision(solver, name, dtype):
    problem = PROBLEMS[name](dtype)
    report = SOLVERS[solver]()(problem.f, problem.start, threshold=100, eps=1e-4).report
    assert report.termination is Termination.CONVERGED
    assert report.rel_residual < 1e-4


@pytest.mark.parametrize(
    ("solver", "threshold", "n_evals", "best_step"),
    [
        ("broyden", 0, 1, 0),
        ("broyden", 1, 2, 1),
        ("broyden", 2, 3, 2),
        ("anderson", 0, 0, 0),
        ("anderson", 1, 1, 0),
        ("anderson", 2, 2, 1),
        ("anderson", 3, 3, 2),
    ],
)
def test_small_thresholds(solver, threshold, n_evals, best_step):
    problem = PROBLEMS["tanh"](torch.float64)
    visited = []

    def f(z):
        visited.append(z)
        return problem.f(z)

    result = SOLVERS[solver]()(f, problem.start, threshold=threshold, eps=0)
    report = result.report
    assert (report.n_evals, report.best_step, len(visited)) == (n_evals, best_step, n_evals)
    assert report.termination is Termination.MAX_STEPS
    assert torch.equal(result.value, visited[best_step] if visited else problem.start)
    assert len(report.abs_trace) == len(report.rel_trace) == n_evals


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first_bad", [0, 1, 2, 5])
def test_non_finite_values_end_the_solve_with_the_best_so_far(solver, bad, first_bad):
    problem = PROBLEMS["tanh"](torch.float64)
    calls = itertools.count()

    def f(z):
        return problem.f(z) if next(calls) < first_bad else torch.full_like(z, bad)

    result = SOLVERS[solver]()(f, problem.start, threshold=20, eps=0)
    assert result.report.termination is Termination.NONFINITE
    assert result.report.n_evals == first_bad + 1
    assert result.value.isfinite().all()


def test_one_sequence_at_rest_leaves_the_others_alone():
    """A sequence that starts at its equilibrium takes steps of zero length: its estimate must not turn into NaN."""
    problem = PROBLEMS["tanh"](torch.float64)
    start = problem.start.clone()
    f = problem.f
    b = f(torch.zeros_like(start))

    def with_constant_row(z):
        fz = f(z)
        return torch.cat([torch.zeros_like(fz[:1]), fz[1:]])

    for solver in SOLVERS.values():
        result = solver()(with_constant_row, start, threshold=60, eps=1e-9)
        assert result.report.termination is Termination.CONVERGED
        assert torch.equal(result.value[0], torch.zeros_like(b[0]))
        torch.testing.assert_close(result.value[1:], problem.equilibrium[1:], rtol=0, atol=1e-7)


def test_anderson_survives_a_singular_system():
    """With λ = 0 and all residuals equal, the bordered system has no unique solution."""
    result = anderson(lambda z: z + 1, torch.zeros(2, 3), threshold=9, eps=0, lam=0.0)
    assert result.value.isfinite().all()
    assert result.report.n_evals == 9


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_map_without_equilibrium_says_so(solver):
    result = SOLVERS[solver]()(lambda z: z + 1, torch.zeros(2, 3, dtype=torch.float64), threshold=15, eps=1e-6)
    assert result.report.termination is not Termination.CONVERGED
    assert result.report.n_evals <= 16
    assert result.value.isfinite().all()


def test_divergence_is_told_from_the_first_steps_residual():
    residual = iter([1.0, 1.0, 10.0, 1500.0, 2.0])

    def f(z):
        return z + next(residual)

    result = broyden(f, torch.zeros(1, 1, dtype=torch.float64), threshold=4, eps=0, stop_mode="abs")
    assert result.report.termination is Termination.DIVERGED
    assert result.report.n_evals == 4
    assert result.report.best_step == 1


def test_divergence_allows_more_to_longer_sequences():
    residual = iter([1.0, 1.0, 10.0, 1500.0, 2.0])
    result = broyden(
        lambda z: z + next(residual), torch.zeros(1, 2, 1, dtype=torch.float64), threshold=4, eps=0, stop_mode="abs"
    )
    assert result.report.termination is Termination.MAX_STEPS


def test_stagnation_needs_a_residual_near_eps_that_does_not_move():
    start = torch.zeros(1, 2, dtype=torch.float64)
    direction = itertools.cycle(torch.tensor([[0.02, 0.0], [0.0, 0.02]], dtype=torch.float64).split(1))

    def noise(z):
        return z + next(direction)

    near = broyden(noise, start, threshold=100, eps=0.01, stop_mode="abs").report
    assert near.termination is Termination.STAGNATED
    assert near.n_steps == STAGNATION_WINDOW + 1
    far = broyden(noise, start, threshold=100, eps=0.005, stop_mode="abs").report
    assert far.termination is not Termination.STAGNATED


def test_the_lowest_residual_wins_not_the_last():
    residual = iter([5.0, 3.0, 1.0, 2.0, 4.0])
    visited = []

    def f(z):
        visited.append(z)
        return z + next(residual)

    result = broyden(f, torch.zeros(1, 1, dtype=torch.float64), threshold=4, eps=0, stop_mode="abs")
    assert result.report.best_step == 2
    assert torch.equal(result.value, visited[2])


def test_stop_modes_read_their_own_trace():
    problem = PROBLEMS["diagonal"](torch.float64)
    for mode in ("abs", "rel"):
        report = broyden(problem.f, problem.start, threshold=50, eps=1e-5, stop_mode=mode).report
        trace = report.abs_trace if mode == "abs" else report.rel_trace
        assert trace[-1] < 1e-5 <= min(trace[:-1])
        assert report.residual == trace[-1]


def test_start_is_not_changed_and_nothing_requires_grad():
    problem = PROBLEMS["tanh"](torch.float64)
    before = problem.start.clone()
    for solver in SOLVERS.values():
        value = solver()(problem.f, problem.start, threshold=10).value
        assert torch.equal(problem.start, before)
        assert not value.requires_grad


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_arguments_raise(solver):
    z = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="`threshold` is -1"):
        SOLVERS[solver]()(lambda z: z, z, threshold=-1)
    with pytest.raises(ValueError, match=r"`stop_mode` is 'both': choose one of rel, abs"):
        SOLVERS[solver]()(lambda z: z, z, threshold=1, stop_mode="both")


def test_anderson_needs_a_window():
    with pytest.raises(ValueError, match="`m` is 0"):
        anderson(lambda z: z, torch.zeros(1, 2), threshold=3, m=0)


@pytest.mark.parametrize("limit", [3, 21, 40])
def test_history_holds_the_newest_columns(limit, monkeypatch):
    monkeypatch.setattr(sys.modules[History.__module__], "SMALL_HISTORY", 0)
    like = torch.zeros(2, 5)
    history = History(like, limit=limit)
    columns = torch.randn(30, 2, 5)
    for i, column in enumerate(columns):
        assert history.append(column) == (i >= limit)
        assert all(block.is_contiguous() for block in history.blocks)
        assert history.capacity <= min(limit, max(8, 2 * (i + 1)))
        held = columns[max(0, i + 1 - limit) : i + 1].transpose(0, 1)  # (B, m, N)
        vectors = torch.randn(2, 3, 5)
        torch.testing.assert_close(history.inner(vectors), vectors @ held.transpose(1, 2))
        weights = torch.randn(2, held.shape[1])
        torch.testing.assert_close(history.combine(weights), (weights[:, :, None] * held).sum(1))
        assert torch.equal(history.newest, column)


def test_early_convergence_does_not_pay_for_the_threshold(monkeypatch):
    problem = PROBLEMS["constant"](torch.float32)
    sizes = []
    original = History.__init__

    def spy(self, like, limit):
        original(self, like, limit)
        sizes.append(self.capacity)

    monkeypatch.setattr(History, "__init__", spy)
    broyden(problem.f, problem.start, threshold=100_000, eps=1e-3)
    assert sizes == [8]
    broyden(problem.f, problem.start, threshold=30, eps=1e-3)
    assert sizes[1:] == [31], "a small one is one block"
