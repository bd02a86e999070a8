"""What hooks on the output of an equilibrium, and gradients for it, see."""

import pytest
import torch

from modules.deq import DEQModule
from modules.solvers import SOLVERS


@pytest.mark.parametrize("solver", SOLVERS)
def test_hooks_and_gradients_for_the_output_see_the_gradient_of_the_loss(solver):
    """And not the solution of the adjoint equation, which goes on to the parameters."""
    weight = torch.full((3, 3), 0.2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run():
        return DEQModule(solver=solver, f_eps=1e-12, b_eps=1e-12)(lambda z: torch.tanh(z @ weight + x), 0 * x)[0]

    z = run()
    seen = []
    z.register_hook(seen.append)
    z.retain_grad()
    (3 * z).sum().backward()
    through = weight.grad.clone()
    assert torch.equal(z.grad, torch.full_like(z, 3))
    assert torch.equal(seen[0], torch.full_like(z, 3))

    z = run()
    of_output, of_weight = torch.autograd.grad((3 * z).sum(), (z, weight))
    assert torch.equal(of_output, torch.full_like(z, 3))
    torch.testing.assert_close(of_weight, through)
    exact = x.clone() * 0
    for _ in range(200):
        exact = torch.tanh(exact @ weight + x)
    (unrolled,) = torch.autograd.grad((3 * exact).sum(), weight)
    torch.testing.assert_close(of_weight, unrolled)

    z = run()
    z.register_hook(lambda gradient: 2 * gradient)  # a user's own hook changes the gradient that is solved for
    (doubled,) = torch.autograd.grad((3 * z).sum(), weight)
    torch.testing.assert_close(doubled, 2 * through)
