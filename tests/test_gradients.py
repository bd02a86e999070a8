"""Every gradient mode against a float64 oracle, and backward solves that fail."""

import math
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from modules.anderson import Anderson
from modules.broyden import Broyden
from modules.deq import DEQModule
from modules.report import Termination
from modules.settings import GRADIENTS
from modules.solver import Solver
from modules.solvers import SOLVERS

B, N = 3, 5
TIGHT = {"f_eps": 1e-13, "b_eps": 1e-13, "f_thres": 80, "b_thres": 80}
MODES = {
    "implicit": {},
    "one_step": {},
    "phantom": {"phantom_steps": 4, "phantom_damping": 0.6},
    "unroll": {"f_thres": 9},
    "reversible": {"f_thres": 9, "f_eps": 0, "rev_beta": 0.7},
}
BETA = MODES["reversible"]["rev_beta"]


def tensor(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def weight():
    return (0.2 * tensor(N, N, seed=0)).requires_grad_()


@pytest.fixture
def x():
    return tensor(B, N, seed=1).requires_grad_()


def cell(z, weight, x):
    return torch.tanh(z @ weight + x)


def make(mode, **options):
    return DEQModule(grad=mode, **(TIGHT | MODES[mode] | options))


def solve(deq, weight, x):
    return deq(lambda z: cell(z, weight, x), torch.zeros_like(x))


def equilibrium_of(weight, x):
    z = torch.zeros_like(x)
    for _ in range(300):
        z = cell(z, weight, x)
    return z.detach()


def dense_jacobian(weight, x, z):
    """∂f/∂z of each sequence, (B, N, N)."""
    slope = 1 - cell(z, weight, x).square()
    return slope.unsqueeze(2) * weight.t()


def oracle(mode, weight, x, grad):
    """Gradients of ⟨grad, output⟩ for weight and x, without any of the code under test."""
    if mode == "unroll":
        z = torch.zeros_like(x)
        for _ in range(MODES["unroll"]["f_thres"]):
            z = cell(z, weight, x)
        return torch.autograd.grad(z, (weight, x), grad)
    if mode == "reversible":
        y = z = torch.zeros_like(x)
        for _ in range(MODES["reversible"]["f_thres"]):
            y = (1 - BETA) * y + BETA * cell(z, weight, x)
            z = (1 - BETA) * z + BETA * cell(y, weight, x)
        return torch.autograd.grad(z, (weight, x), grad)
    z = equilibrium_of(weight, x)
    jacobian = dense_jacobian(weight.detach(), x.detach(), z)
    identity = torch.eye(N, dtype=torch.float64).expand(B, N, N)
    if mode == "implicit":
        factor = torch.linalg.inv(identity - jacobian)
    elif mode == "one_step":
        factor = identity
    else:
        damping, steps = MODES["phantom"]["phantom_damping"], MODES["phantom"]["phantom_steps"]
        base = (1 - damping) * identity + damping * jacobian
        factor = damping * sum(torch.linalg.matrix_power(base, k) for k in range(steps))
    y = torch.einsum("bij,bi->bj", factor, grad)
    return torch.autograd.grad(cell(z, weight, x), (weight, x), y)


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


# -- the backward solver's own settings


def test_the_backward_solver_has_its_own_name_options_and_stop_mode(monkeypatch, weight, x):
    calls = []
    solve_of_all = Solver.__call__

    def spy(self, f, z0, **arguments):
        calls.append((self, arguments))
        return solve_of_all(self, f, z0, **arguments)

    monkeypatch.setattr(Solver, "__call__", spy)
    deq = DEQModule(
        solver="broyden", b_solver="anderson", b_stop_mode="abs", b_thres=33, b_eps=1e-7, stop_scope="sequence"
    )
    assert not calls, "options are checked without a solve"
    z, info = solve(deq, weight, x)
    z.sum().backward()
    assert [solver for solver, _ in calls] == [Broyden(), Anderson()]
    expected = {"threshold": 33, "eps": 1e-7, "stop_mode": "abs", "stop_scope": "sequence"}
    assert calls[1][1] == expected | {"sequence_traces": False, "low": None}
    assert info.backward.stop_mode == "abs"
    assert info.backward.stop_scope == "sequence"


@pytest.mark.parametrize("b_solver", SOLVERS)
@pytest.mark.parametrize("stop_scope", ["batch", "sequence"])
def test_any_backward_solver_gives_the_same_gradient(b_solver, stop_scope, weight, x):
    grad = tensor(B, N, seed=2)
    z, info = solve(make("implicit", b_solver=b_solver, stop_scope=stop_scope), weight, x)
    found = torch.autograd.grad(z, weight, grad)[0]
    torch.testing.assert_close(found, oracle("implicit", weight, x, grad)[0], rtol=1e-9, atol=1e-11)
    assert info.backward.termination is Termination.CONVERGED


# -- sharing the forward solve's estimate


@pytest.mark.parametrize("b_solver", SOLVERS)
def test_a_nan_that_arrives_goes_on_to_the_parameters(b_solver, weight, x):
    z, info = solve(make("implicit", b_solver=b_solver), weight, x)
    (math.nan * z.sum()).backward()
    assert info.backward.termination is Termination.NONFINITE
    assert weight.grad.isnan().all()


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_a_jacobian_that_is_not_finite_leaves_the_one_step_gradient(scope, x):
    def f(z):
        poison = 0 * torch.sqrt((z - z.detach())[1:2])  # 0 in value, 0 · ∞ in its derivative
        return 0.5 * z + x + torch.cat([torch.zeros_like(poison), poison, torch.zeros_like(poison)])

    z, info = make("implicit", stop_scope=scope)(f, torch.zeros_like(x))
    z.sum().backward()
    assert info.backward.termination is Termination.NONFINITE
    spared = 2.0 if scope == "sequence" else 1.0
    torch.testing.assert_close(x.grad[[0, 2]], torch.full((2, N), spared, dtype=torch.float64))
    torch.testing.assert_close(x.grad[1], torch.ones(N, dtype=torch.float64))
    assert info.backward.n_unconverged == (1 if scope == "sequence" else B)


def test_a_backward_solve_that_runs_out_of_steps_says_so(weight, x):
    z, info = solve(make("implicit", b_thres=2), weight, x)
    z.sum().backward()
    assert info.backward.termination is Termination.MAX_STEPS
    assert info.backward.n_evals == 3
    assert info.backward.rel_residual > TIGHT["b_eps"]


def test_parameters_behind_a_reentrant_checkpoint_get_their_gradient(weight, x):
    """The graph of f shows z alone: that must not be taken for a map whose parameters are frozen."""
    fixed = x.detach()
    plain = partial(cell, weight=weight, x=fixed)

    def f(z):
        return checkpoint(plain, z, use_reentrant=True) if z.requires_grad else plain(z)

    z, _ = make("implicit", b_thres=0, f_thres=0)(f, equilibrium_of(weight, x))
    z.sum().backward()
    expected = oracle("one_step", weight, x, torch.ones_like(fixed))[0]
    torch.testing.assert_close(weight.grad, expected, rtol=1e-8, atol=1e-10)


# -- what cannot be set


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad": "explicit"}, "`grad` is 'explicit': choose one of implicit, one_step, phantom, unroll"),
        ({"b_solver": "newton"}, "`b_solver` is 'newton': choose one of anderson, broyden, fixed_point"),
        ({"b_stop_mode": "l2"}, "`b_stop_mode` is 'l2'"),
        ({"stop_scope": "row"}, "`stop_scope` is 'row'"),
        ({"b_init": "random"}, "`b_init` is 'random': choose one of zero, shine"),
        ({"b_init": "shine", "solver": "anderson"}, "`solver` is 'anderson'.*pass `solver` 'broyden'"),
        ({"b_init": "shine", "stop_scope": "sequence"}, "`stop_scope` is 'sequence'.*pass.*`stop_scope` 'batch'"),
        ({"phantom_steps": 0}, "`phantom_steps` is 0: pass 1 or more"),
        ({"phantom_damping": 0.0}, "`phantom_damping` is 0.0"),
        ({"phantom_damping": 1.5}, "`phantom_damping` is 1.5"),
        ({"f_thres_delta": -1}, "`f_thres_delta` is -1"),
        ({"f_options": {"m": 3}}, "f_options: broyden has no option 'm': choose from history"),
        ({"b_solver": "anderson", "b_options": {"ridge": 0}}, "b_options: anderson has no option 'ridge'"),
        ({"f_options": {"threshold": 3}}, "f_options: broyden has no option 'threshold'"),
        ({"f_options": {"history": 0}}, "f_options: `history` is 0"),
        ({"solver": "anderson", "f_options": {"beta": 0}}, "f_options: `beta` is 0"),
        ({"solver": "anderson", "f_options": {"lam": -1.0}}, "f_options: `lam` is -1.0"),
        ({"solver": "fixed_point", "b_options": {"damping": 2}}, "b_options: `damping` is 2"),
    ],
)
def test_unknown_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        DEQModule(**options)


def test_backward_options_follow_the_forward_ones_of_the_same_solver():
    assert DEQModule(f_options={"history": 4}).b_solver == Broyden(history=4)
    assert DEQModule(f_options={"history": 4}, b_solver="broyden").b_solver == Broyden(history=4)
    assert DEQModule(f_options={"history": 4}, b_options={}).b_solver == Broyden()
    assert DEQModule(f_options={"history": 4}, b_solver="anderson").b_solver == Anderson()
