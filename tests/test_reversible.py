"""The reversible iteration: its gradient is that of the same iteration unrolled, its memory that of a few states."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from modules.deq import DEQModule
from modules.report import Termination
from modules.reversible import ReversibleIteration, pack, unpack

B, D = 3, 6
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}


def tensor(*shape, seed, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def problem(dtype, gain):
    """tanh(z W + x) with ‖W‖₂ = gain."""
    weight = tensor(D, D, seed=0, dtype=torch.float64)
    weight = (gain * weight / torch.linalg.matrix_norm(weight, 2)).to(dtype).requires_grad_()
    x = tensor(B, D, seed=1, dtype=dtype).requires_grad_()
    return (lambda z: torch.tanh(z @ weight + x)), weight, x


def unrolled(f, z0, steps, beta):
    """The iteration with states in double precision, with ordinary backpropagation."""
    y = z = z0.double()
    for _ in range(steps):
        y = (1 - beta) * y + beta * f(z.to(z0.dtype)).double()
        z = (1 - beta) * z + beta * f(y.to(z0.dtype)).double()
    return z.to(z0.dtype)


@pytest.mark.parametrize("gain", [0.9, 1.5])
@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_its_gradient_is_that_of_the_iteration_as_performed(dtype, steps, beta, gain):
    f, weight, x = problem(dtype, gain)
    deq = DEQModule(grad="reversible", f_thres=steps, f_eps=0, rev_beta=beta)
    start = tensor(B, D, seed=2, dtype=dtype)
    z, info = deq(f, start)
    wanted = unrolled(f, start, steps, beta)
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-13 if dtype == torch.float64 else 1e-6)  # on the grid
    assert (info.forward.n_steps, info.forward.n_evals) == (steps, 2 * steps)
    grad = tensor(B, D, seed=3, dtype=dtype)
    found, expected = (torch.autograd.grad(state, (weight, x), grad) for state in (z, wanted))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= TOLERANCES[dtype] * b.abs().max()


@pytest.mark.parametrize(("gain", "rows", "dtype"), [(1.5, 512, torch.float32), (10.0, 64, torch.float64)])
@pytest.mark.parametrize("beta", [0.2, 0.8, 0.97])
def test_rounding_does_not_grow_in_large_states_and_expanding_maps(gain, rows, dtype, beta):
    """A state that came back with another last digit would be seen otherwise by f, and grow from there."""
    weight = gain * torch.linalg.qr(tensor(32, 32, seed=0, dtype=torch.float64))[0]
    weight, x = weight.to(dtype).requires_grad_(), 0.3 * tensor(rows, 32, seed=1, dtype=dtype)
    f = lambda z: torch.tanh(z @ weight + x)  # noqa: E731
    iteration = ReversibleIteration(f, torch.zeros_like(x), beta=beta, around=nullcontext())
    states = [iteration.z.detach()]
    for _ in range(40):
        iteration.advance(iteration.evaluate(), None)
        states.append(iteration.z.detach())
    for h in reversed(range(40)):
        assert torch.equal(iteration.way_back.at(h).to(dtype), states[h])


def kept_bytes(steps, beta):
    """What the graph keeps an entry of the state."""
    f, _, x = problem(torch.float32, 0.9)
    iteration = ReversibleIteration(f, torch.zeros_like(x), beta=beta, around=nullcontext())
    with torch.no_grad():
        for _ in range(2 * steps):
            iteration.advance(f(iteration.z), None)
    way_back = iteration.way_back
    tensors = [*way_back.end, *(step.remainder for step in way_back.steps if step.remainder is not None)]
    assert not any(step.states or step.kept for step in way_back.steps)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / x.numel()


def test_two_states_are_kept_and_half_a_byte_or_one_a_half_step():
    assert kept_bytes(20, 0.5) <= 16 + 40 * 0.5
    assert 16 + 30 * 0.5 <= kept_bytes(20, 0.8) <= 16 + 40 * 0.5
    assert 16 + 30 <= kept_bytes(20, 0.95) <= 16 + 40


def test_where_a_byte_is_too_little_the_pair_is_kept():
    f, weight, x = problem(torch.float64, 0.9)
    z, _ = DEQModule(grad="reversible", f_thres=10, f_eps=0, rev_beta=0.9999)(f, torch.zeros_like(x))
    found = torch.autograd.grad(z.sum(), weight)[0]
    expected = torch.autograd.grad(unrolled(f, torch.zeros_like(x), 10, 0.9999).sum(), weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_map_that_gives_other_values_on_backward_is_noticed():
    calls = []

    def f(z):
        calls.append(1)
        return torch.tanh(weight * z + len(calls))

    weight = torch.full((D,), 0.5, requires_grad=True)
    z, _ = DEQModule(grad="reversible", f_thres=4, f_eps=0)(f, torch.zeros(B, D))
    with pytest.raises(RuntimeError, match="f gave other values on backward than forward"):
        z.sum().backward()


@pytest.mark.parametrize("largest", [7, 127])
def test_small_numbers_are_packed(largest):
    numbers = torch.randint(-largest, largest + 1, (3, 5), dtype=torch.int8)
    packed = pack(numbers, largest)
    assert packed.numel() == (8 if largest == 7 else 15)
    assert torch.equal(unpack(packed, numbers.shape), numbers)


def test_nothing_of_f_is_kept():
    """The graph holds none of the hidden tensors of any step, and is gone after it."""
    hidden = []

    def f(z):
        inner = torch.exp(0.1 * z)
        hidden.append(weakref.ref(inner))
        return torch.tanh(inner * weight + x)

    _, _, x = problem(torch.float32, 0.9)
    weight = torch.ones(D, requires_grad=True)
    z, _ = DEQModule(grad="reversible", f_thres=6, f_eps=0)(f, torch.zeros_like(x))
    gc.collect()
    assert not any(ref() is not None for ref in hidden)
    z.sum().backward()
    del z
    gc.collect()
    assert not any(ref() is not None for ref in hidden)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_it_stops_where_it_has_converged(scope):
    gain = torch.tensor([[0.1], [0.6], [0.9]], dtype=torch.float64)
    weight = torch.ones(1, D, dtype=torch.float64, requires_grad=True)

    def f(z, rows=slice(None)):
        return torch.tanh(gain[rows] * z + weight)

    deq = DEQModule(grad="reversible", f_thres=60, f_eps=1e-6, stop_scope=scope, rev_beta=0.5)
    z, info = deq(f, torch.zeros(3, D, dtype=torch.float64))
    report = info.forward
    assert report.termination is Termination.CONVERGED
    assert report.n_steps < 60
    assert report.residual < 1e-6
    assert len({*report.sequence_steps}) == (2 if scope == "sequence" else 1)
    (found,) = torch.autograd.grad(z.square().sum(), weight)
    expected = 0
    for row, steps in enumerate(report.sequence_steps):
        alone = unrolled(lambda z, r=slice(row, row + 1): f(z, r), torch.zeros(1, D, dtype=torch.float64), steps, 0.5)
        torch.testing.assert_close(z[row], alone[0], rtol=0, atol=1e-14)
        expected = expected + torch.autograd.grad(alone.square().sum(), weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_again_over_a_retained_graph_and_in_parts():
    f, weight, x = problem(torch.float64, 0.9)
    z, _ = DEQModule(grad="reversible", f_thres=9, f_eps=0)(f, torch.zeros_like(x))
    whole = torch.autograd.grad(z.sum(), weight, retain_graph=True)[0]
    parts = [torch.autograd.grad(z[row].sum(), weight, retain_graph=True)[0] for row in range(B)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-10, atol=1e-12)
    z.sum().backward()
    torch.testing.assert_close(weight.grad, whole, rtol=1e-12, atol=1e-14)


def test_two_calls_may_interleave_and_frozen_maps_have_no_gradient():
    f, weight, x = problem(torch.float64, 0.9)
    deq = DEQModule(grad="reversible", f_thres=5, f_eps=0)
    a, b = (deq(f, torch.full_like(x, value).detach())[0] for value in (0.0, 1.0))
    found = torch.autograd.grad(a.sum() + b.sum(), weight)[0]
    expected = sum(
        torch.autograd.grad(unrolled(f, torch.full_like(x, v).detach(), 5, 0.8).sum(), weight)[0] for v in (0.0, 1.0)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    frozen, _ = deq(lambda z: torch.tanh(z @ weight.detach()), torch.zeros_like(x))
    assert not frozen.requires_grad


def test_maps_that_keep_nothing_and_maps_with_states_of_several_tensors():
    shift = torch.ones(B, D, dtype=torch.float64, requires_grad=True)
    z, _ = DEQModule(grad="reversible", f_thres=4, f_eps=0)(lambda z: z / 2 + shift, torch.zeros(B, D).double())
    expected = torch.autograd.grad(unrolled(lambda z: z / 2 + shift, 0 * shift.detach(), 4, 0.8).sum(), shift)[0]
    torch.testing.assert_close(torch.autograd.grad(z.sum(), shift)[0], expected)
    lstm, x = nn.LSTMCell(D, D).double(), torch.randn(B, D).double()
    start = (torch.zeros(B, D).double(), torch.zeros(B, D).double())
    deq = DEQModule(grad="reversible", f_thres=3, f_eps=0, rev_beta=0.5)
    (h, c), _ = deq(lambda s: lstm(x, s), start)
    y = s = start
    for _ in range(3):
        y = tuple(0.5 * a + 0.5 * b for a, b in zip(y, lstm(x, s), strict=True))
        s = tuple(0.5 * a + 0.5 * b for a, b in zip(s, lstm(x, y), strict=True))
    parameters = list(lstm.parameters())
    for a, b in zip(
        torch.autograd.grad(h.sum() + c.square().sum(), parameters),
        torch.autograd.grad(s[0].sum() + s[1].square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0, 1, 1.0, -0.1])
def test_a_damping_that_cannot_be_undone_is_refused(beta):
    with pytest.raises(ValueError, match=r"`rev_beta` is .*: pass a number above 0 and below 1"):
        DEQModule(rev_beta=beta)


def test_half_precision_by_autocast():
    layer, x = nn.Linear(D, D), torch.randn(B, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, _ = DEQModule(grad="reversible", f_thres=5)(lambda z: torch.tanh(0.3 * layer(z) + x), torch.zeros(B, D))
    assert z.dtype == torch.float32
    z.sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_map_may_write_into_its_argument(dtype):
    weight = tensor(D, seed=0, dtype=dtype).requires_grad_()
    z, found = [], []
    for f in (lambda z: z.mul_(0.5).add_(weight), lambda z: 0.5 * z + weight):
        z.append(DEQModule(grad="reversible", f_thres=5, f_eps=0)(f, torch.zeros(B, D, dtype=dtype))[0])
        found.append(torch.autograd.grad(z[-1].square().sum(), weight)[0])
    torch.testing.assert_close(z[0], z[1])
    torch.testing.assert_close(found[0], found[1])
