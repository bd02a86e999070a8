"""Solves do not depend on the scale of their problem, down to the smallest normal numbers of the dtype."""

import pytest
import torch

from modules.deq import DEQModule
from modules.report import Termination
from modules.solvers import SOLVERS

DTYPES = {torch.float32: 1e-35, torch.float64: 1e-304}  # with the smallest scale that is tried


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_equilibrium_is_reached(solver, dtype):
    for scale in (1e-12, DTYPES[dtype]):
        result = SOLVERS[solver]()(lambda z, c=scale: z / 2 + c, torch.zeros(2, 3, dtype=dtype), threshold=60, eps=1e-5)
        assert result.report.termination is Termination.CONVERGED
        torch.testing.assert_close(result.value / (2 * scale), torch.ones(2, 3, dtype=dtype), rtol=1e-4, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_a_small_loss_is_as_exact_as_that_of_a_large_one(solver, dtype):
    generator = torch.Generator().manual_seed(0)
    weight = (0.2 * torch.randn(6, 6, generator=generator)).to(dtype).requires_grad_()
    x = torch.randn(3, 6, generator=generator).to(dtype)
    deq = DEQModule(solver=solver, f_eps=1e-6, b_eps=1e-6)

    def gradient(scale):
        z, info = deq(lambda z: torch.tanh(z @ weight + x), torch.zeros_like(x))
        (found,) = torch.autograd.grad(scale * z.square().sum(), weight)
        return found / scale, info.backward.n_evals

    wanted, n_evals = gradient(1.0)
    for scale in (1e-14, 1e-17, 1e-32, 1e14):
        found, n_evals_here = gradient(scale)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert abs(n_evals_here - n_evals) <= 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("start", [0.0, 1.0, -3.0])
@pytest.mark.parametrize("shift", [1e-25, 1e-12, 1e15, 1e25])
def test_the_scale_may_change_on_the_way(solver, start, shift):
    """From ones to an equilibrium whose squares vanish, or overflow."""
    z0 = torch.full((2, 3), start)
    result = SOLVERS[solver]()(lambda z: z / 2 + shift, z0, threshold=400, eps=1e-5)
    assert result.report.termination is Termination.CONVERGED
    torch.testing.assert_close(result.value / (2 * shift), torch.ones(2, 3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_small_start_may_lead_far_away_and_a_large_one_into_the_small(solver):
    grown = SOLVERS[solver]()(lambda z: torch.tanh(3 * z + 1e-20), torch.zeros(1, 4), threshold=300, eps=1e-4)
    if solver == "fixed_point":
        torch.testing.assert_close(grown.value, torch.full((1, 4), 0.99505), rtol=1e-3, atol=0)
    else:  # they find the one that repels, where tanh is as good as straight
        torch.testing.assert_close(grown.value / -5e-21, torch.ones(1, 4), rtol=1e-3, atol=0)
    shrunk = SOLVERS[solver]()(lambda z: 1e-25 * torch.tanh(z + 1), torch.ones(1, 4), threshold=60, eps=1e-4)
    torch.testing.assert_close(shrunk.value / 1e-25, torch.full((1, 4), 0.76159), rtol=1e-3, atol=0)
    half = SOLVERS[solver]()(
        lambda z: 1e-3 * torch.tanh(z) + 0.5, torch.full((1, 4), 1000.0).half(), threshold=20, eps=1e-2
    )
    torch.testing.assert_close(half.value, torch.full((1, 4), 0.5005).half(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("grad", ["unroll", "reversible"])
def test_iterations_with_a_graph_see_small_residuals_too(grad):
    deq = DEQModule(grad=grad, f_thres=40, f_eps=1e-4, rev_beta=0.5)
    z, info = deq(lambda z: z / 2 + 1e-25, torch.zeros(2, 3))
    assert info.forward.termination is Termination.CONVERGED
    torch.testing.assert_close(z / 2e-25, torch.ones(2, 3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_of_very_different_scales(solver, scope):
    class Halves:
        def __init__(self, shift):
            self.shift = shift

        def __call__(self, z):
            return z / 2 + self.shift

        def select(self, rows):
            return Halves(self.shift[rows])

    shift = torch.tensor([[1e-30], [1.0], [1e-12], [1e25]])
    solve = SOLVERS[solver]()
    report = solve(Halves(shift), torch.zeros(4, 1), threshold=60, eps=1e-5, stop_scope=scope, sequence_traces=True)
    torch.testing.assert_close(report.value / (2 * shift), torch.ones(4, 1), rtol=1e-3, atol=0)
    assert all(trace[0] == 1 for trace in report.report.sequence_traces)
