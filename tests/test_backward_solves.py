"""Backward solves: their own settings, those that fail, and what cannot be set."""

import math
from functools import partial

import pytest
import torch
from known_gradients import TIGHT, B, N, cell, equilibrium_of, make, oracle, solve, tensor
from torch.utils.checkpoint import checkpoint

from modules.anderson import Anderson
from modules.broyden import Broyden
from modules.deq import DEQModule
from modules.report import Termination
from modules.solver import Solver
from modules.solvers import SOLVERS


@pytest.fixture
def weight():
    return (0.2 * tensor(N, N, seed=0)).requires_grad_()


@pytest.fixture
def x():
    return tensor(B, N, seed=1).requires_grad_()


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
