"""Sharing the forward solve's inverse Jacobian with the backward one: against the dense inverse, and as a start."""

import itertools

import pytest
import torch
from known_gradients import TIGHT, tensor
from problems import PROBLEMS

from modules.broyden import InverseJacobian
from modules.deq import DEQModule
from modules.report import Termination
from modules.solvers import broyden


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_transposed_estimate_is_that_of_the_dense_inverse(steps):
    problem = PROBLEMS["rotation"](torch.float64)
    visited = []

    def f(z):
        visited.append(z)
        return problem.f(z)

    jacobian = broyden(f, problem.start, threshold=steps, eps=0).jacobian
    vector = tensor(2, 6, seed=5)
    found = jacobian.transposed(vector)
    for row in range(2):
        inverse = -torch.eye(6, dtype=torch.float64)
        for z, after in itertools.pairwise(visited[:-1]):  # Sherman and Morrison's form of the update
            dz = (after - z)[row]
            dg = (problem.f(after) - after - problem.f(z) + z)[row]
            inverse = inverse + torch.outer(dz - inverse @ dg, dz @ inverse) / (dz @ inverse @ dg)
        torch.testing.assert_close(found[row], -inverse.t() @ vector[row], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_limited_estimate_is_the_product_of_the_newest_factors(limit):
    estimate = InverseJacobian(torch.zeros(1, 4, dtype=torch.float64), limit)
    steps = [tensor(1, 4, seed=10)]
    for seed in range(5):
        estimate.append(steps[-1])
        steps.append(estimate.next_step(tensor(1, 4, seed=20 + seed)))
    estimate.append(steps[-1])
    product = torch.eye(4, dtype=torch.float64)
    for s, after in list(itertools.pairwise(steps))[-limit:]:
        product = (torch.eye(4, dtype=torch.float64) + torch.outer(after[0], s[0]) / s.square().sum()) @ product
    vector = tensor(1, 4, seed=6)
    torch.testing.assert_close(estimate.transposed(vector)[0], product.t() @ vector[0])
    assert len(estimate.steps) == limit + 1


def table_gradient(name, **options):
    """The gradient for an input that is added to a table problem's map, and the backward report."""
    problem = PROBLEMS[name](torch.float64)
    shift = torch.zeros_like(problem.start).requires_grad_()
    deq = DEQModule(solver="broyden", **(TIGHT | options))
    z, info = deq(lambda z: problem.f(z) + shift, problem.start)
    grad = tensor(*z.shape, seed=3)
    z.backward(grad)
    jacobian = torch.autograd.functional.jacobian(problem.f, z.detach()).reshape(z.numel(), z.numel())
    exact = torch.linalg.solve((torch.eye(z.numel()) - jacobian).t(), grad.flatten()).view_as(z)
    return shift.grad, exact, info.backward


@pytest.mark.parametrize("name", ["tanh", "image"])
@pytest.mark.parametrize("b_eps", [1e-3, 1e-5])
def test_starting_from_the_forward_estimate_saves_evaluations(name, b_eps):
    settings = {"f_eps": 1e-10, "b_eps": b_eps}
    zero, exact, from_zero = table_gradient(name, **settings)
    shared, _, from_estimate = table_gradient(name, b_init="shine", **settings)
    assert from_estimate.n_evals < from_zero.n_evals
    assert from_estimate.rel_trace[0] < 0.3 < from_zero.rel_trace[0]
    for found in (zero, shared):
        assert (found - exact).norm() < 4 * b_eps * exact.norm()


@pytest.mark.parametrize("name", ["rotation", "diagonal", "transformer", "image", "expanding"])
def test_the_start_does_not_change_the_gradient_at_convergence(name):
    shared, exact, report = table_gradient(name, b_init="shine")
    assert report.termination is Termination.CONVERGED
    torch.testing.assert_close(shared, exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "error"), [("rotation", 0.35), ("tanh", 0.11), ("image", 0.27), ("diagonal", 0.52), ("transformer", 0.85)]
)
def test_the_forward_estimate_in_place_of_the_solve(name, error):
    """With b_thres 0, y = -Bᵀȳ: right in the directions that the forward solve went, and no more than an estimate."""
    settings = {"f_eps": 1e-10, "b_thres": 0}
    shared, exact, report = table_gradient(name, b_init="shine", **settings)
    assert report is None
    assert 1e-3 < (shared - exact).norm() / exact.norm() < error
    one_step, _, _ = table_gradient(name, **settings)
    if name in ("rotation", "tanh", "image"):
        assert (shared - exact).norm() < (one_step - exact).norm()


# -- solves that fail
