"""DEQModule among other people's code: compilers, direct solves, containers of every kind, settings set later."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from modules.anderson import Anderson
from modules.broyden import Broyden
from modules.deq import DEQModule
from modules.settings import GRADIENTS
from modules.solvers import SOLVERS, broyden

B, D = 3, 6
Pair = namedtuple("Pair", "h c")
quiet_compiler = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch", "ignore:The .grad attribute of a Tensor"
)


@pytest.fixture
def weight():
    return (0.2 * torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).requires_grad_()


@pytest.fixture
def x():
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.inner, self.inject, self.out = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 2)
        with torch.no_grad():
            self.inner.weight.mul_(0.5)
        self.deq = DEQModule(**options)

    def forward(self, x):
        u = self.inject(x)
        z, self.info = self.deq(lambda z: torch.tanh(self.inner(z) + u), torch.zeros_like(u))
        return self.out(z)


@quiet_compiler
@pytest.mark.parametrize("options", [{}, {"grad": "unroll", "f_thres": 4}, {"grad": "reversible", "f_thres": 4}])
def test_a_compiled_model_leaves_the_solve_out(options):
    from torch._dynamo.testing import CompileCounter

    model, x = Model(**options), torch.randn(B, D)
    wanted = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for _ in range(2):
        found = torch.autograd.grad(compiled(x).sum(), list(model.parameters()))
    assert counter.frame_count == 2, "one graph before the solve and one after it"
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    explained = torch._dynamo.explain(model)(x)
    assert (explained.graph_count, explained.graph_break_count) == (2, 1)


@quiet_compiler
def test_a_compiled_map_stays_compiled_inside_the_solve():
    from torch._dynamo.testing import CompileCounter

    model, calls = Model(), []
    counter = CompileCounter()
    u = torch.randn(B, D)
    f = torch.compile(lambda z: torch.tanh(model.inner(z) + u), backend=counter)

    def counted(z):
        calls.append(1)
        return f(z)

    model.deq(counted, torch.zeros(B, D))
    assert len(calls) > 4
    assert 1 <= counter.frame_count <= 2, "once without and once with gradients"


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_can_be_called_with_gradients_enabled(solver, weight, x):
    f = lambda z: torch.tanh(z @ weight + x)  # noqa: E731
    result = SOLVERS[solver]()(f, torch.zeros_like(x), threshold=40, eps=1e-9)
    with torch.no_grad():
        wanted = SOLVERS[solver]()(f, torch.zeros_like(x), threshold=40, eps=1e-9)
    assert torch.equal(result.value, wanted.value)
    assert not result.value.requires_grad


@pytest.mark.parametrize("kind", [list, tuple, Pair._make], ids=["list", "tuple", "named tuple"])
def test_several_tensors_come_back_as_they_were_given(kind, weight, x):
    seen = []

    def f(state):
        seen.append(type(state))
        return [torch.tanh(state[0] @ weight + state[1][:, :D]), 0.3 * state[1] + 1]

    start = kind([torch.zeros_like(x), torch.zeros(B, D + 2, dtype=torch.float64)])
    z, info = DEQModule(f_eps=1e-10)(f, start, iterates=[1])
    assert type(z) is type(start)
    assert type(info.iterates[0]) is type(start)
    assert {*seen} == {type(start)}
    torch.testing.assert_close(z[1], torch.full((B, D + 2), 1 / 0.7, dtype=torch.float64))


@pytest.mark.parametrize("grad", GRADIENTS)
def test_they_are_tensors_of_their_own(grad, weight, x):
    f = lambda z: (torch.tanh(z[0] @ weight + x), 0.3 * z[1] + z[0].sum(1, keepdim=True))  # noqa: E731
    with torch.set_grad_enabled(True):
        (a, b), _ = DEQModule(grad=grad, f_thres=20)(f, (torch.zeros_like(x), torch.zeros(B, 1, dtype=torch.float64)))
    assert a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()
    assert a.is_contiguous()
    assert a.untyped_storage().nbytes() == a.numel() * a.element_size()
    a_grad, b_grad = torch.autograd.grad(a.sum() + 2 * b.sum(), (a, b), retain_graph=True)
    assert torch.equal(a_grad, torch.ones_like(a))
    assert torch.equal(b_grad, torch.full_like(b, 2))
    before = b.clone()
    a.mul_(3)
    assert torch.equal(b, before)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("grad", GRADIENTS)
def test_channels_last_are_kept(grad, dims):
    form = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    torch.manual_seed(0)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims](4, 4, 3, padding=1).to(memory_format=form)
    with torch.no_grad():
        conv.weight.mul_(0.5)
    x = torch.randn(2, 4, *[5] * dims).to(memory_format=form)
    seen = []

    def f(z):
        seen.append(z.is_contiguous(memory_format=form))
        return torch.tanh(conv(z) + x)

    deq = DEQModule(grad=grad, f_eps=1e-6, b_eps=1e-6, f_thres=40)
    z, _ = deq(f, torch.zeros_like(x))
    z.square().sum().backward()
    assert all(seen)
    assert z.is_contiguous(memory_format=form)
    found, conv.weight.grad = conv.weight.grad, None
    plain, _ = deq(lambda z: torch.tanh(conv(z) + x).contiguous(), torch.zeros(x.shape))
    plain.square().sum().backward()
    torch.testing.assert_close(z, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, conv.weight.grad, rtol=1e-3, atol=1e-4)


def test_attributes_are_checked_when_they_are_set():
    deq = DEQModule()
    deq.solver = "anderson"
    assert deq.solver == deq.b_solver == Anderson()
    deq.b_solver = "broyden"
    assert deq.b_solver == Broyden()
    for name, value, message in [
        ("solver", "newton", "`solver` is 'newton': choose one of"),
        ("solver", 3, "`solver` is 3: pass one of anderson, broyden, fixed_point, or a `Solver`"),
        ("f_thres", -1, "`f_thres` is -1: pass 0 or more"),
        ("f_thres", 12.0, "`f_thres` is 12.0, a float: pass a whole number, 0 or more"),
        ("b_thres", "12", "`b_thres` is '12', a str: pass a whole number"),
        ("f_eps", None, "`f_eps` is None, a NoneType: pass a number, 0 or more"),
        ("f_thres", True, "`f_thres` is True, a bool"),
        ("stop_mode", 1, "`stop_mode` is 1: choose one of rel, abs"),
        ("b_init", "shine", "`b_init` is 'shine'.*`solver` is 'anderson'"),
    ]:
        before = repr(deq)
        with pytest.raises(ValueError, match=message):
            setattr(deq, name, value)
        assert repr(deq) == before
    for name, words in [
        ("f_thresh", "did you mean f_thres"),
        ("f_tol", "it is called f_eps"),
        ("x", "choose from solver"),
    ]:
        with pytest.raises(TypeError, match=f"there is no setting '{name}': {words}"):
            DEQModule(**{name: 3})
    with pytest.raises(AttributeError, match=r"there is no setting 'f_tres': did you mean f_thres\?"):
        deq.f_tres = 3
    deq.qconfig = None  # what others hang on a module is theirs
    deq.f_options = {"m": 2}
    assert deq.solver == Anderson(m=2)
    for name, value, error in [
        ("evaluation", {"bogus": 3}, TypeError),
        ("settings", 3, ValueError),
        ("batch_sum", 3, ValueError),
        ("f_options", 3, ValueError),
    ]:
        with pytest.raises(error):
            setattr(deq, name, value)

    class Mine(DEQModule):
        callback = tau = None

    Mine().tau = 3


@pytest.mark.parametrize("threshold", [2.5, "3", None])
def test_thresholds_of_direct_solves_are_whole_numbers(threshold):
    with pytest.raises(ValueError, match=r"`threshold` is .*: pass a whole number, 0 or more"):
        broyden(torch.cos, torch.zeros(1, 1), threshold=threshold)


def test_a_vectorised_jacobian_is_refused_in_words(weight, x):
    def solved(x, **options):
        deq = DEQModule(f_eps=1e-9, b_eps=1e-9, **options)
        return deq(lambda z: torch.tanh(z @ weight.detach() + x), torch.zeros_like(x))[0]

    with pytest.raises(RuntimeError, match="one gradient at a time: call jacobian with vectorize=False"):
        torch.autograd.functional.jacobian(solved, x, vectorize=True)
    for options in ({"grad": "one_step"}, {"grad": "unroll", "f_thres": 4}, {"grad": "reversible", "f_thres": 4}):
        found, wanted = (
            torch.autograd.functional.jacobian(lambda x, o=options: solved(x, **o), x, vectorize=vectorize)
            for vectorize in (True, False)
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("grad", GRADIENTS)
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_weights_changed_before_backward_are_noticed(grad, what, x):
    """The bias is kept by nobody's graph: only what is evaluated again would be wrong with another one."""
    linear = nn.Linear(D, D, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.mul_(0.3)
    z, _ = DEQModule(grad=grad, f_thres=8)(lambda z: torch.tanh(linear(z) + x), torch.zeros_like(x))
    with torch.no_grad():
        getattr(linear, what).add_(0.1)
    kept = what == "weight" and grad != "one_step"  # for the product with ∂f/∂z
    if grad not in ("unroll", "reversible") and not kept:
        z.sum().backward()  # exact all the same
    else:
        with pytest.raises(RuntimeError, match=r"changed in place between|modified by an inplace operation"):
            z.sum().backward()


@pytest.mark.parametrize("grad", ["unroll", "reversible"])
@pytest.mark.parametrize("what", ["input", "frozen weight", "derived weight", "another weight"])
def test_so_is_what_is_no_leaf_of_the_graph(grad, what, x):
    linear, frozen = nn.Linear(D, D, dtype=torch.float64), 0.2 * torch.eye(D, dtype=torch.float64)
    base = (0.2 * torch.eye(D, dtype=torch.float64)).requires_grad_()
    derived, x = base * 1.0, x.clone()
    f = lambda z: torch.tanh(0.3 * linear(z) + z @ frozen + z @ derived + x)  # noqa: E731
    z, _ = DEQModule(grad=grad, f_thres=5, f_eps=0)(f, torch.zeros_like(x))
    with torch.no_grad():
        if what == "input":
            x.zero_()
        elif what == "frozen weight":
            frozen.mul_(0.5)
        elif what == "derived weight":
            derived.mul_(2)
        else:
            linear.weight = nn.Parameter(linear.weight + 0.1)
    with pytest.raises(RuntimeError, match="f gave other values on backward than forward"):
        z.sum().backward()


def test_an_unrolled_map_may_use_its_memory_again(x):
    buffer, weight = torch.empty_like(x), 0.2 * torch.ones(D, D, dtype=torch.float64)
    deq = DEQModule(grad="unroll", f_thres=6, f_eps=0)
    found, info = deq(lambda z: torch.tanh(z @ weight + x, out=buffer), torch.zeros_like(x), iterates=[1, 2])
    wanted, told = deq(lambda z: torch.tanh(z @ weight + x), torch.zeros_like(x), iterates=[1, 2])
    assert torch.equal(found, wanted)
    assert all(torch.equal(a, b) for a, b in zip(info.iterates, told.iterates, strict=True))
    assert info.forward.rel_trace == told.forward.rel_trace


@pytest.mark.parametrize("grad", GRADIENTS)
@pytest.mark.parametrize("f", [lambda z: z.float(), lambda z: (z,), lambda z: None, lambda z: z[:, :2]])
def test_images_are_checked_in_every_mode(grad, f, x):
    with pytest.raises(ValueError, match=r"f (gives a|maps)"):
        DEQModule(grad=grad, f_thres=4)(f, torch.zeros_like(x))


@pytest.mark.parametrize("grad", GRADIENTS)
def test_maps_of_several_tensors_get_each_in_one_piece(grad):
    form = torch.channels_last
    seen = []

    def f(state):
        a, b = state
        seen.append(a.is_contiguous() and b.is_contiguous(memory_format=form))
        return torch.tanh(0.3 * a.view(-1, 4)).view_as(a) + 1, 0.5 * b + 1

    start = (torch.zeros(B, 5, 4), torch.zeros(B, 2, 4, 4).to(memory_format=form))
    (a, b), _ = DEQModule(grad=grad, f_thres=6)(f, start)
    assert all(seen)
    assert a.is_contiguous()
    assert b.is_contiguous(memory_format=form)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_a_map_keeps_of_its_arguments_is_not_the_result(solver, weight, x):
    kept = []

    def f(z):
        kept.append(z)
        return torch.tanh(z @ weight.detach() + x)

    z = SOLVERS[solver]()(f, torch.zeros_like(x), threshold=20, eps=1e-6).value
    assert not {argument.untyped_storage().data_ptr() for argument in kept} & {z.untyped_storage().data_ptr()}


@pytest.mark.parametrize("grad", ["unroll", "reversible"])
def test_weights_outside_of_the_map_may_change(grad, x):
    """A bias that an injection was made with is no concern of the map's."""
    inject, linear = nn.Linear(D, D, dtype=torch.float64), nn.Linear(D, D, dtype=torch.float64)
    u = inject(x)
    z, _ = DEQModule(grad=grad, f_thres=5)(lambda z: torch.tanh(0.3 * linear(z) + u), torch.zeros_like(u))
    with torch.no_grad():
        inject.bias.add_(1)
    z.sum().backward()
    assert linear.weight.grad.abs().sum() > 0
