"""Tuples of tensors as states, and maps whose values come in another dtype."""

import pytest
import torch

from modules.deq import DEQModule
from modules.solvers import SOLVERS
from modules.state import CastMap, StateLayout


def test_flattening_and_unflattening_are_inverse():
    state = (torch.randn(3, 2), torch.randn(3), torch.randn(3, 4, 1, 2))
    layout = StateLayout.of(state)
    flat = layout.flatten(state)
    assert flat.shape == (3, 2 + 1 + 8)
    for part, back in zip(state, layout.unflatten(flat), strict=True):
        assert torch.equal(part, back)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(3, 3)), "same first dimension"),
        ((torch.zeros(2, 3), torch.zeros(2, 3).double()), "dtype"),
        ((), "all need"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        DEQModule()(lambda z: z, state)


def test_a_map_that_changes_its_tensors_shapes_is_refused():
    state = (torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"shapes \(2, 1\), \(2, 3\)"):
        DEQModule()(lambda z: (z[1], z[0]), state)


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_reach_every_tensor_of_the_tuple(solver):
    u = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    v = torch.randn(2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    deq = DEQModule(solver=solver, f_thres=80, b_thres=80, f_eps=1e-13, b_eps=1e-13)

    def solve(u, v):
        def f(state):
            x, y = state
            return 0.3 * torch.tanh(x) + 0.4 * y.sum((1, 2))[:, None].sin() + u, 0.2 * x.sum(1)[:, None, None] * v

        return deq(f, (torch.zeros_like(u), torch.zeros_like(v)))[0]

    assert torch.autograd.gradcheck(solve, (u, v))


def test_wrapped_maps_can_select_where_the_map_can():
    layout = StateLayout.of((torch.zeros(3, 2),))
    assert not hasattr(layout.flattened(lambda z: z), "select")

    class Scaled:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, z):
            return self.rate * z

        def select(self, rows):
            return Scaled(self.rate[rows])

    f = CastMap(Scaled(torch.tensor([[1.0], [2.0], [3.0]])), torch.float64)
    z = torch.ones(2, 1)
    assert f.select(torch.tensor([0, 2]))(z).tolist() == [[1.0], [3.0]]
    assert f.select(torch.tensor([0, 2]))(z).dtype == torch.float64


def test_under_autocast_a_map_may_return_the_low_precision():
    linear = torch.nn.Linear(4, 4)
    with torch.no_grad():
        linear.weight.mul_(0.3)
    x = torch.randn(2, 4)
    deq = DEQModule(f_eps=1e-2, b_eps=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, info = deq(lambda z: torch.tanh(linear(z) + x.to(torch.bfloat16)), torch.zeros(2, 4))
    assert z.dtype == torch.float32
    assert info.forward.rel_residual < 1e-2
    z.sum().backward()
    assert linear.weight.grad.isfinite().all()
    assert linear.weight.grad.abs().max() > 0
