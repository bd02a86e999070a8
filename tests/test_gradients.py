"""Every gradient mode against a float64 oracle."""

import math

import pytest
import torch
from known_gradients import B, N, cell, equilibrium_of, make, oracle, solve, tensor

from modules.deq import DEQModule
from modules.report import Termination
from modules.settings import GRADIENTS


@pytest.fixture
def weight():
    return (0.2 * tensor(N, N, seed=0)).requires_grad_()


@pytest.fixture
def x():
    return tensor(B, N, seed=1).requires_grad_()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", GRADIENTS)
def test_gradient_is_the_stated_one(mode, training, weight, x):
    grad = tensor(B, N, seed=2)
    z, _ = solve(make(mode).train(training), weight, x)
    found = torch.autograd.grad(z, (weight, x), grad)
    for a, b in zip(found, oracle(mode, weight, x, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", GRADIENTS)
def test_twice_over_a_retained_graph(mode, weight, x):
    z, _ = solve(make(mode), weight, x)
    first, second, doubled = (
        torch.autograd.grad(z, (weight, x), scale * tensor(B, N, seed=2), retain_graph=True) for scale in (1, 1, 2)
    )
    for a, b, c in zip(first, second, doubled, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(2 * a, c, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mode", GRADIENTS)
def test_under_the_jacobian_function(mode, weight, x):
    jacobian = torch.autograd.functional.jacobian(lambda u: solve(make(mode), weight.detach(), u)[0], x.detach())
    for i in range(N):
        grad = torch.zeros(B, N, dtype=torch.float64)
        grad[:, i] = 1
        expected = oracle(mode, weight, x, grad)[1]
        found = torch.stack([jacobian[row, i, row] for row in range(B)])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert jacobian[0, :, 1].abs().max() == 0


def test_modes_differ_and_approach_the_implicit_gradient(weight, x):
    grad = tensor(B, N, seed=2)
    exact = oracle("implicit", weight, x, grad)[0]

    def error(mode, **options):
        z, _ = solve(make(mode, **options), weight, x)
        return (torch.autograd.grad(z, weight, grad)[0] - exact).norm() / exact.norm()

    assert error("implicit") < 1e-11
    assert error("one_step") > 0.05
    series = [error("phantom", phantom_steps=steps, phantom_damping=0.8) for steps in (1, 5, 25, 80)]
    assert series == sorted(series, reverse=True)
    assert series[-1] < 1e-9
    assert error("unroll", f_thres=60) < 1e-9


@pytest.mark.parametrize("mode", ["one_step", "phantom", "unroll", "reversible"])
def test_modes_without_a_solve_allow_second_derivatives(mode, weight, x):
    z, info = solve(make(mode), weight, x)
    (first,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.isfinite().all()
    assert info.backward is None


def test_second_derivatives_of_the_implicit_mode_are_refused(weight, x):
    z, _ = solve(make("implicit"), weight, x)
    with pytest.raises(RuntimeError, match=r"no second derivative.*create_graph=True"):
        torch.autograd.grad(z.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.functional.hessian(lambda u: solve(make("implicit"), weight, u)[0].sum(), x)


@pytest.mark.parametrize("mode", GRADIENTS)
def test_without_gradients_every_mode_gives_the_solvers_equilibrium(mode, weight, x):
    with torch.no_grad():
        z, info = solve(make(mode, f_thres=60, f_eps=1e-13), weight, x)
    torch.testing.assert_close(z, equilibrium_of(weight, x), rtol=0, atol=1e-11)
    assert not z.requires_grad
    assert info.forward.n_evals < 60


def test_unrolling_reports_its_last_step(weight, x):
    z, info = solve(make("unroll"), weight, x)
    before = torch.zeros_like(x)
    for _ in range(8):
        before = cell(before, weight, x)
    report = info.forward
    assert report.abs_residual == pytest.approx((z - before).norm().item(), rel=1e-9)
    assert report.rel_residual == pytest.approx(((z - before).norm() / z.norm()).item(), rel=1e-6)
    assert (report.n_steps, report.n_evals, report.best_step) == (9, 9, 9)
    assert report.sequence_steps == (9, 9, 9)
    assert report.termination is Termination.MAX_STEPS
    assert solve(make("unroll", f_thres=80), weight, x)[1].forward.termination is Termination.CONVERGED
    untouched, info = solve(make("unroll", f_thres=0), weight, x)
    assert torch.equal(untouched, torch.zeros_like(x))
    assert info.forward.abs_residual == math.inf


def test_unrolling_keeps_states_and_no_more():
    """f's inner width is what memory would go to; only the states between the steps stay."""
    x = tensor(B, N, seed=1).requires_grad_()
    widen, narrow = (0.02 * tensor(N, 200, seed=3)).requires_grad_(), tensor(200, N, seed=4).requires_grad_()

    def f(z):
        return torch.tanh(torch.tanh(z @ widen) @ narrow + x)

    def kept(steps):
        """Bytes that the graph holds, the parameters aside."""
        total = {}

        def pack(saved):
            if not saved.is_leaf:
                total[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            output, _ = DEQModule(grad="unroll", f_thres=steps)(f, torch.zeros_like(x))
        assert output.requires_grad
        return sum(total.values())

    state = x.numel() * x.element_size()
    assert (kept(30) - kept(10)) / 20 <= state
    inner = torch.zeros(B, 200, dtype=torch.float64).nbytes
    assert inner > 30 * state  # what each step would keep without recomputing


def test_random_thresholds_of_training(weight, x):
    torch.manual_seed(0)
    for mode in ("implicit", "unroll"):
        deq = make(mode, f_thres=6, f_eps=0, f_thres_delta=2)
        steps = {solve(deq, weight, x)[1].forward.n_steps for _ in range(60)}
        assert steps == {4, 5, 6, 7, 8}
        assert {solve(deq.eval(), weight, x)[1].forward.n_steps for _ in range(5)} == {6}
