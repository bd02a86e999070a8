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
