"""DEQModule: the implicit gradient against finite differences and unrolling, and its life in the autograd graph."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from modules.deq import DEQModule
from modules.report import Termination
from modules.solvers import SOLVERS

B, L, D = 3, 2, 4


def make(solver="broyden", **options):
    settings = {"f_thres": 80, "b_thres": 80, "f_eps": 1e-13, "b_eps": 1e-13} | options
    return DEQModule(solver=solver, **settings)


@pytest.fixture
def weight():
    generator = torch.Generator().manual_seed(0)
    return (0.25 * torch.randn(D, D, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, L, D, generator=generator, dtype=torch.float64).requires_grad_()


def equilibrium(deq, weight, x):
    return deq(lambda z: torch.tanh(z @ weight + x), torch.zeros_like(x))


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradcheck(solver, weight, x):
    assert torch.autograd.gradcheck(lambda w, u: equilibrium(make(solver), w, u)[0], (weight, x))


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradient_is_that_of_the_unrolled_iteration(solver, weight, x):
    z = torch.zeros_like(x)
    for _ in range(200):
        z = torch.tanh(z @ weight + x)
    expected = torch.autograd.grad(z.square().sum(), (weight, x))
    z, _ = equilibrium(make(solver), weight, x)
    found = torch.autograd.grad(z.square().sum(), (weight, x))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_value_is_f_of_the_solution_with_gradients_and_the_solution_without(weight, x):
    deq = make(f_thres=3)
    with torch.no_grad():
        z_star, info = equilibrium(deq, weight, x)
    z_hat, _ = equilibrium(deq, weight, x)
    assert torch.equal(z_hat, torch.tanh(z_star @ weight + x))
    assert not z_star.requires_grad
    assert info.backward is None


def test_two_forwards_before_a_backward(weight, x):
    deq = make()
    alone = [torch.autograd.grad(equilibrium(deq, weight, k * x)[0].sum(), weight)[0] for k in (1, 2)]
    first, second = (equilibrium(deq, weight, k * x)[0].sum() for k in (1, 2))
    (found,) = torch.autograd.grad(first + second, weight)
    torch.testing.assert_close(found, alone[0] + alone[1], rtol=1e-12, atol=1e-12)


def test_second_backward_over_a_retained_graph_is_bit_equal(weight, x):
    loss = equilibrium(make(), weight, x)[0].square().sum()
    first = torch.autograd.grad(loss, (weight, x), retain_graph=True)
    second = torch.autograd.grad(loss, (weight, x))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradients_in_evaluation_mode(weight, x):
    deq = make()
    trained = torch.autograd.grad(equilibrium(deq, weight, x)[0].sum(), weight)[0]
    evaluated = torch.autograd.grad(equilibrium(deq.eval(), weight, x)[0].sum(), weight)[0]
    assert torch.equal(trained, evaluated)


def test_jacobian_function_agrees_with_the_closed_form(x):
    """f(z) = z A + x has z* = x (I - A)⁻¹."""
    a = 0.4 * torch.eye(D, dtype=torch.float64) + 0.1 * torch.ones(D, D, dtype=torch.float64).triu(1)
    row = x.detach()[:1, 0]
    jacobian = torch.autograd.functional.jacobian(lambda u: make()(lambda z: z @ a + u, torch.zeros_like(u))[0], row)
    expected = torch.linalg.inv(torch.eye(D, dtype=torch.float64) - a).t()
    torch.testing.assert_close(jacobian[0, :, 0], expected, rtol=1e-9, atol=1e-10)


class Saved:
    """Stands for a tensor that the graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # an output that kept its graph would close a cycle of the test's own


@pytest.mark.parametrize("backward", [False, True])
def test_no_tensor_outlives_its_use(weight, x, backward):
    saved = []

    def pack(tensor):
        holder = Saved(tensor)
        saved.append(weakref.ref(holder))
        return holder

    leaves = []
    deq = make()

    def f(z):
        if z.requires_grad:
            leaves.append(weakref.ref(z))
        return torch.tanh(z @ weight + x)

    gc.collect()
    gc.disable()  # reference counts alone must free everything: a cycle would keep the graph until a collection
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
            z, info = deq(f, torch.zeros_like(x))
        if backward:
            z.sum().backward()
        alive = [weakref.ref(z), *leaves, *saved]
        assert len(leaves) == 1
        assert len(saved) >= 2
        del z
        assert [ref() for ref in alive] == [None] * len(alive)
    finally:
        gc.enable()
    assert info.forward.termination is Termination.CONVERGED


def test_nothing_is_stored_on_the_module(weight, x):
    deq = make()
    before = dict(vars(deq))
    equilibrium(deq, weight, x)[0].sum().backward()
    assert vars(deq) == before
    assert list(deq.parameters()) == list(deq.buffers()) == []


def test_memory_of_the_graph_does_not_grow_with_the_threshold(weight, x):
    def saved_tensors(f_thres):
        count = 0

        def pack(tensor):
            nonlocal count
            count += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            equilibrium(make(f_thres=f_thres, f_eps=0), weight, x)
        return count

    assert saved_tensors(2) == saved_tensors(40)


def test_changing_the_output_in_place_keeps_the_gradient_right(weight, x):
    expected = torch.autograd.grad(2 * equilibrium(make(), weight, x)[0].sum(), weight)[0]
    z, _ = equilibrium(make(), weight, x)
    z.mul_(2)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), weight)[0], expected, rtol=1e-12, atol=0)


def test_reports_tell_both_solves(weight, x):
    z, info = equilibrium(make(f_eps=1e-6, b_eps=1e-9, stop_mode="abs"), weight, x)
    assert info.forward.stop_mode == "abs"
    assert info.forward.abs_residual < 1e-6
    z.sum().backward()
    assert info.backward.stop_mode == "rel"
    assert info.backward.termination is Termination.CONVERGED
    assert info.backward.rel_residual < 1e-9


def test_accuracy_of_the_gradient_does_not_depend_on_the_loss_scale(weight, x):
    grads = []
    for scale in (1e-8, 1.0, 1e8):
        z, _ = equilibrium(make(b_eps=1e-4, stop_mode="abs"), weight, x)
        grads.append(torch.autograd.grad(scale * z.square().sum(), weight)[0] / scale)
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-6, atol=1e-8)


def test_without_backward_steps_the_gradient_is_that_of_one_application(weight, x):
    z_star = equilibrium(make(), weight, x)[0].detach()
    expected = torch.autograd.grad(torch.tanh(z_star @ weight + x).sum(), weight)[0]
    z, info = equilibrium(make(b_thres=0), weight, x)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), weight)[0], expected, rtol=1e-9, atol=1e-12)
    assert info.backward is None


def test_zero_gradient_stays_zero(weight, x):
    z, _ = equilibrium(make(), weight, x)
    (0 * z.sum()).backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_frozen_parameters_and_a_map_that_ignores_z(weight, x):
    z, _ = equilibrium(make(), weight.detach(), x)
    z.sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    u = x.detach().clone().requires_grad_()
    z, _ = make()(lambda z: 3 * u, torch.zeros_like(u))
    z.sum().backward()
    assert torch.equal(u.grad, torch.full_like(u, 3))
    z, _ = make()(lambda z: torch.ones_like(z), torch.zeros_like(u))
    assert not z.requires_grad


def test_no_gradient_flows_into_the_start(weight, x):
    start = torch.zeros_like(x).requires_grad_()
    make()(lambda z: torch.tanh(z @ weight + x), start)[0].sum().backward()
    assert start.grad is None


def test_second_derivatives_are_refused(weight, x):
    z, _ = equilibrium(make(), weight, x)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(z.sum(), weight, create_graph=True)


def test_four_dimensional_states(x):
    u = torch.randn(2, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: make()(lambda z: 0.5 * torch.cos(z.roll(1, 3)) + v, torch.zeros_like(v))[0], (u,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_kept(dtype, weight, x):
    u = x.detach().to(dtype).requires_grad_()
    w = weight.detach().to(dtype)
    z, _ = make(f_eps=1e-2, b_eps=1e-2)(lambda z: torch.tanh(z @ w + u), torch.zeros_like(u))
    z.sum().backward()
    assert z.dtype == u.grad.dtype == dtype
    exact = torch.autograd.grad(equilibrium(make(), weight, x)[0].sum(), x)[0]
    torch.testing.assert_close(u.grad.double(), exact, rtol=0.1, atol=0.05)


def test_a_map_that_changes_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        make()(lambda z: torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"float32.*float64"):
        make()(lambda z: z.double(), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "newton"}, "`solver` is 'newton': choose one of anderson, broyden"),
        ({"stop_mode": "max"}, "`stop_mode` is 'max'"),
        ({"f_thres": -1}, "`f_thres` is -1"),
        ({"b_thres": -2}, "`b_thres` is -2"),
        ({"f_eps": float("nan")}, "`f_eps` is nan"),
        ({"b_eps": -1e-3}, "`b_eps` is -0.001"),
    ],
)
def test_bad_settings_raise(options, message):
    with pytest.raises(ValueError, match=message):
        DEQModule(**options)


def test_copies_and_pickles(weight, x):
    deq = make()
    for other in (copy.deepcopy(deq), pickle.loads(pickle.dumps(deq))):
        assert torch.equal(equilibrium(other, weight, x)[0], equilibrium(deq, weight, x)[0])
        assert repr(other) == repr(deq)
