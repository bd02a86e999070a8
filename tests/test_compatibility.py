"""DEQModule under what users of PyTorch put around a module."""

import copy
import pickle

import pytest
import torch
from torch import nn

from modules.deq import DEQModule
from modules.report import Termination
from modules.settings import GRADIENTS
from modules.solvers import SOLVERS

B, D = 4, 8

quiet_script = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
quiet_compiler = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")


class Layer(nn.Module):
    """x ↦ z* = tanh(W z* + b + x)."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(D, D)
        with torch.no_grad():
            self.linear.weight.mul_(0.8)
        self.deq = DEQModule(**({"f_thres": 60, "b_thres": 60, "f_eps": 1e-6, "b_eps": 1e-6} | options))
        self.seen = []  # dtypes of f's arguments

    def forward(self, x):
        def f(z):
            self.seen.append(z.dtype)
            return torch.tanh(self.linear(z) + x)

        z, self.info = self.deq(f, torch.zeros_like(x))
        return z


@pytest.fixture
def x():
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


def gradients(layer, x):
    layer.zero_grad()
    layer(x).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("grad", GRADIENTS)
def test_autocast(solver, grad, x):
    """f runs in bfloat16, the solver and its sums in float32."""
    layer = Layer(solver=solver, grad=grad, f_thres=30, f_eps=1e-2, b_eps=1e-2, phantom_steps=20)
    expected, exact = layer(x).detach(), gradients(layer, x)
    layer.seen.clear()
    layer.zero_grad()
    low_precision = []
    layer.linear.register_forward_hook(lambda module, args, output: low_precision.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x)
    z.square().sum().backward()
    assert z.dtype == torch.float32
    assert set(layer.seen) == {torch.float32}
    assert set(low_precision) == {torch.bfloat16}
    torch.testing.assert_close(z, expected, rtol=0, atol=0.05)
    for name, parameter in layer.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - exact[name]).norm() < 0.05 * exact[name].norm()


def test_autocast_does_not_reach_the_solvers_own_products(x):
    """With an f in float32, autocast changes no bit; its own products in bfloat16 would."""
    weight = torch.randn(D, D, generator=torch.Generator().manual_seed(2)) * 0.2

    @torch.autocast("cpu", enabled=False)
    def f(z):
        return torch.tanh(z @ weight + x)

    def run(options, *, autocast):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            z, _ = DEQModule(**options)(lambda z: f(z) + leaf, torch.zeros_like(x))
            z.sum().backward()
        return z, leaf.grad

    for options in ({"solver": "broyden"}, {"solver": "anderson"}, {"solver": "broyden", "b_init": "shine"}):
        with_it, without = run(options, autocast=True), run(options, autocast=False)
        assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True)), options


def test_a_map_that_gives_bfloat16_under_autocast_is_cast(x):
    linear = Layer().linear
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, info = DEQModule(f_eps=1e-2)(linear, torch.zeros(B, D))
    z.sum().backward()
    assert z.dtype == linear.weight.grad.dtype == torch.float32
    assert info.forward.termination is Termination.CONVERGED


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("several", [False, True])
def test_the_state_is_in_single_precision_under_autocast_whatever_the_starts_dtype(enabled, several, x):
    linear, seen = Layer().linear, []

    def f(z):
        seen.append(z.dtype)
        return torch.tanh(linear(z) + x)

    start = torch.zeros(B, D, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(enabled):
        deq = DEQModule(f_eps=1e-2)
        z, _ = deq(lambda z: tuple(map(f, z)), (start, start)) if several else deq(f, start)
    assert {part.dtype for part in (z if several else [z])} == set(seen) == {torch.float32}


@quiet_script
@quiet_compiler
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_map(backend, x):
    layer = Layer()
    expected = gradients(layer, x)
    f = torch.compile(lambda z: torch.tanh(layer.linear(z) + x), backend=backend)
    layer.zero_grad()
    z, info = layer.deq(f, torch.zeros_like(x))
    z.square().sum().backward()
    assert info.backward.termination is Termination.CONVERGED
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grad", ["implicit", "one_step", "phantom"])
def test_functional_call(grad, x):
    layer = Layer(grad=grad)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    expected = gradients(other, x)
    substituted = {name: parameter.detach().clone().requires_grad_() for name, parameter in other.named_parameters()}
    output = torch.func.functional_call(layer, substituted, (x,))
    found = torch.autograd.grad(output.square().sum(), tuple(substituted.values()))
    for gradient, name in zip(found, substituted, strict=True):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_functional_call_with_recomputation_needs_weights_in_a_context(x):
    """The mode unroll runs f again on backward, when a module holds its own parameters again."""
    substitute = torch.full((D, D), 0.05).requires_grad_()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(D, D))
            self.deq = DEQModule(grad="unroll", f_thres=5)

        def forward(self, x):
            weight = self.weight
            return self.deq(lambda z: torch.tanh(z @ weight + x), torch.zeros_like(x))[0]

    expected = torch.zeros_like(x)
    for _ in range(5):
        expected = torch.tanh(expected @ substitute + x)
    (exact,) = torch.autograd.grad(expected.sum(), substitute)
    (found,) = torch.autograd.grad(torch.func.functional_call(Model(), {"weight": substitute}, (x,)).sum(), substitute)
    torch.testing.assert_close(found, exact)


@quiet_script
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap", "forward_ad"])
def test_what_has_no_derivative_here_is_refused(solver, transform, x):
    """Nothing but reverse mode through torch.autograd has a right answer."""
    weight = 0.1 * torch.randn(D, D, generator=torch.Generator().manual_seed(2))

    def equilibrium(w):
        return DEQModule(solver=solver)(lambda z: torch.tanh(z @ w + x), torch.zeros_like(x))[0]

    def forward_ad():
        with torch.autograd.forward_ad.dual_level():
            equilibrium(torch.autograd.forward_ad.make_dual(weight, torch.ones_like(weight)))

    calls = {
        "grad": lambda: torch.func.grad(lambda w: equilibrium(w).sum())(weight),
        "vjp": lambda: torch.func.vjp(equilibrium, weight),
        "jvp": lambda: torch.func.jvp(equilibrium, (weight,), (weight,)),
        "vmap": lambda: torch.func.vmap(equilibrium)(weight.expand(2, D, D)),
        "forward_ad": forward_ad,
    }
    with pytest.raises(RuntimeError, match=r"reverse-mode derivatives only.*torch\.autograd"):
        calls[transform]()


def test_copies_and_pickles(x):
    layer = Layer(solver="anderson", f_options={"m": 3}, stop_scope="sequence")
    expected = gradients(layer, x)
    layer.info = None
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for name, gradient in gradients(other, x).items():
            assert torch.equal(gradient, expected[name])


@pytest.mark.parametrize("grad", GRADIENTS)
def test_frozen_parameters(grad, x):
    layer = Layer(grad=grad)
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    layer.zero_grad()
    layer.requires_grad_(False)
    again = x.clone().requires_grad_()
    layer(again).sum().backward()
    assert torch.equal(again.grad, leaf.grad)
    assert layer.linear.weight.grad is None
    assert not layer(x).requires_grad


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("grad", GRADIENTS)
def test_a_state_of_two_tensors(scope, grad, x):
    """An LSTM's (h, c), against the gradient of 200 plain steps."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(D, 5).double()
    start = (torch.zeros(B, 5, dtype=torch.float64), torch.zeros(B, 5, dtype=torch.float64))
    x = x.double()
    expected = start
    for _ in range(200):
        expected = cell(x, expected)
    exact = torch.autograd.grad(expected[0].sum() + 2 * expected[1].square().sum(), cell.weight_hh)[0]
    settings = {"f_thres": 200, "b_thres": 200, "f_eps": 1e-11, "b_eps": 1e-11, "phantom_damping": 1.0}
    settings["phantom_steps"] = 200
    state, info = DEQModule(stop_scope=scope, grad=grad, **settings)(lambda state: cell(x, state), start)
    (state[0].sum() + 2 * state[1].square().sum()).backward()
    for found, wanted in zip(state, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    if grad != "one_step":  # which is an approximation
        torch.testing.assert_close(cell.weight_hh.grad, exact, rtol=1e-7, atol=1e-8)
    assert len(info.forward.sequence_steps) == B


class Shrink:
    """(a, b) ↦ (r b + 1, r a + 2) with a rate r per sequence; counts the sequences that it is given."""

    def __init__(self, rate, sizes):
        self.rate, self.sizes = rate, sizes

    def __call__(self, state):
        a, b = state
        self.sizes.append(len(a))
        return self.rate * b + 1, self.rate * a + 2

    def select(self, rows):
        return Shrink(self.rate[rows], self.sizes)


def test_tuples_leave_the_batch_when_they_have_finished():
    rate, sizes = torch.tensor([[0.0], [0.9], [0.0], [0.0]]), []
    deq = DEQModule(solver="fixed_point", stop_scope="sequence", f_thres=200, f_eps=1e-5)
    with torch.no_grad():
        (a, b), _ = deq(Shrink(rate, sizes), (torch.zeros(4, 3), torch.zeros(4, 3)))
    torch.testing.assert_close(a, ((1 + 2 * rate) / (1 - rate**2)).expand(4, 3), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(b, ((2 + rate) / (1 - rate**2)).expand(4, 3), rtol=1e-3, atol=1e-4)
    assert sizes[0] == 4
    assert sizes[-1] == 1


@pytest.mark.parametrize(
    ("start", "f", "message"),
    [
        (3.0, lambda z: z, r"`z0` is a float: pass a tensor \(B, \*\), or a tuple or list of them"),
        ((torch.zeros(2, 3), (torch.zeros(2, 3),)), lambda z: z, "`z0` has a tuple in place 1: pass .* tensors alone"),
        ([torch.zeros(2, 3)], lambda z: z[0], "f gives a Tensor: it must give 1 tensors, as it gets"),
        (torch.zeros(2, 3, dtype=torch.int64), lambda z: z, r"`z0` is \(2, 3\) torch.int64"),
        (torch.zeros(()), lambda z: z, r"`z0` is \(\) torch.float32"),
        (torch.zeros(2, 3), lambda z: None, "f gives a NoneType"),
        (torch.zeros(2, 3), lambda z: (z,), "f gives a tuple"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), lambda z: z, r"\(2, 3\) .*\(3, 3\) .*same first dimension"),
        (
            (torch.zeros(2, 3), torch.zeros(2, 4)),
            lambda z: (z[1], z[0]),
            r"f gives tensors of shapes \(2, 4\), \(2, 3\)",
        ),
    ],
)
def test_what_is_no_state_is_refused(start, f, message):
    with pytest.raises(ValueError, match=message):
        DEQModule()(f, start)


@pytest.mark.parametrize("grad", GRADIENTS)
@pytest.mark.parametrize("before", [False, True])
def test_a_cache_of_parametrized_weights_keeps_their_gradients(grad, before, x):
    """Whether the weight was asked for before the solve or not; it is computed once for that and once for the graph."""
    layer, computed = Layer(grad=grad, f_thres=10), []

    class Halved(nn.Module):
        def forward(self, weight):
            computed.append(torch.is_grad_enabled())
            return weight / 2

    nn.utils.parametrize.register_parametrization(layer.linear, "weight", Halved())
    wanted = gradients(layer, x)
    computed.clear()
    layer.zero_grad()
    with nn.utils.parametrize.cached():
        if before:
            assert layer.linear.weight.requires_grad
        z = layer(x)
    assert len(computed) <= 2
    z.square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name])
