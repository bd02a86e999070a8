"""What a call of DEQModule can ask for: other settings, iterates on the way, a callback, traces of every sequence."""

import pytest
import torch
from torch import nn

from modules.anderson import Anderson
from modules.broyden import Broyden
from modules.deq import DEQModule
from modules.report import Termination
from modules.settings import GRADIENTS
from modules.solvers import SOLVERS
from modules.state import unpacked

B, D = 3, 5


@pytest.fixture
def weight():
    return (0.25 * torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).requires_grad_()


@pytest.fixture
def x():
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def f(weight, x):
    return lambda z: torch.tanh(z @ weight + x)


# -- settings of one call, and of evaluation


def test_settings_of_one_call(f, x):
    deq, start = DEQModule(f_thres=30, f_eps=1e-12), torch.zeros_like(x)
    report = deq(f, start, f_thres=3, f_eps=0)[1].forward
    assert (report.n_evals, report.eps) == (4, 0)
    assert deq(f, start, solver="anderson", f_options={"m": 2}, f_thres=4, f_eps=0)[1].forward.n_evals == 4
    assert deq(f, start, stop_scope="sequence", stop_mode="abs")[1].forward.stop_scope == "sequence"
    assert (deq.f_thres, deq.f_eps, deq.solver) == (30, 1e-12, Broyden())
    with pytest.raises(ValueError, match="`f_thres` is -3"):
        deq(f, start, f_thres=-3)
    with pytest.raises(TypeError, match="there is no setting 'f_max_iter'"):
        deq(f, start, f_max_iter=3)


def test_options_of_one_call_are_added_to_those_of_the_solver(f, x):
    deq = DEQModule(solver="anderson", f_options={"m": 4, "beta": 0.5})
    changed = deq.settings.changed(f_options={"m": 2})
    assert changed.solver == changed.backward_solver == Anderson(m=2, beta=0.5)


def test_a_backward_solver_of_one_call(f, weight, x):
    deq = DEQModule(f_eps=1e-10)
    z, info = deq(f, torch.zeros_like(x), b_solver="fixed_point", b_thres=7, b_eps=0)
    z.sum().backward()
    assert info.backward.n_evals == 8


def test_evaluation_has_settings_of_its_own(f, x):
    deq, start = DEQModule(f_thres=3, f_eps=0, evaluation={"f_thres": 9, "solver": "anderson"}), torch.zeros_like(x)
    assert deq(f, start)[1].forward.n_evals == 4
    assert deq.eval()(f, start)[1].forward.n_evals == 9
    assert deq(f, start, f_thres=5)[1].forward.n_evals == 5
    assert "evaluation={'f_thres': 9, 'solver': 'anderson'}" in repr(deq)
    for evaluation, error in (({"f_thres": -1}, ValueError), ({"thres": 1}, TypeError)):
        with pytest.raises(error):
            DEQModule(evaluation=evaluation)


# -- iterates


def plain(f, z, steps):
    for _ in range(steps):
        z = f(z)
    return z


@pytest.mark.parametrize(
    ("n", "threshold", "steps"), [(3, 12, (4, 8)), (3, 10, (4, 7)), (3, 11, (5, 8)), (1, 5, ()), (9, 3, (1, 2))]
)
def test_evenly_chosen_iterates(n, threshold, steps, f, x):
    deq = DEQModule(solver="fixed_point", f_thres=threshold, f_eps=0, grad="one_step")
    z, info = deq(f, torch.zeros_like(x), iterates=n)
    assert len(info.iterates) == len(steps)
    for found, step in zip((*info.iterates, z), (*steps, threshold), strict=True):
        torch.testing.assert_close(found, plain(f, torch.zeros_like(x), step + 1), rtol=0, atol=0)


def gradients(states, weight):
    return [torch.autograd.grad(state.square().sum(), weight, retain_graph=True)[0] for state in states]


@pytest.mark.parametrize("grad", GRADIENTS)
def test_iterates_have_the_gradient_of_the_mode(grad, f, weight, x):
    deq = DEQModule(grad=grad, solver="fixed_point", f_thres=7, f_eps=0, phantom_steps=2, rev_beta=0.6)
    _, info = deq(f, torch.zeros_like(x), iterates=[0, 3, 5])
    if grad in ("implicit", "one_step", "phantom"):
        with torch.no_grad():
            starts = [plain(f, torch.zeros_like(x), step) for step in (0, 3, 5)]
        wanted = [f(start) for start in starts]
        if grad == "phantom":
            wanted = [torch.lerp(start, one, 0.5) for start, one in zip(starts, wanted, strict=True)]
            wanted = [torch.lerp(one, f(one), 0.5) for one in wanted]
    elif grad == "unroll":
        wanted = [plain(f, torch.zeros_like(x), step) for step in (0, 3, 5)]
    else:
        y = state = torch.zeros_like(x)
        wanted = [state]
        for _ in range(5):
            y = 0.4 * y + 0.6 * f(state)
            state = 0.4 * state + 0.6 * f(y)
            wanted.append(state)
        wanted = [wanted[0], wanted[3], wanted[5]]
    for a, b in zip(info.iterates, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    some = slice(1 if grad in ("unroll", "reversible") else 0, None)  # the start itself has no gradient
    for a, b in zip(gradients(info.iterates[some], weight), gradients(wanted[some], weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_result_in_the_place_of_an_iterate_has_its_gradient(f, weight, x):
    z, info = DEQModule(f_eps=1e-10, b_eps=1e-10)(f, torch.zeros_like(x), iterates=[90])
    of_z, of_iterate = gradients([z, info.iterates[0]], weight)
    assert torch.equal(of_z, of_iterate)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_the_result_stands_for_iterates_after_the_end(solver, scope, f, x):
    deq = DEQModule(solver=solver, stop_scope=scope, f_thres=60, f_eps=1e-4)
    with torch.no_grad():
        z, info = deq(f, torch.zeros_like(x), iterates=[1, 50])
    assert info.forward.n_steps < 50
    assert torch.equal(info.iterates[1], z)
    assert torch.equal(info.iterates[0], f(torch.zeros_like(x)).detach())


def test_iterates_of_sequences_that_have_finished_are_their_results():
    gain = torch.tensor([[0.0], [0.9]], dtype=torch.float64)
    deq = DEQModule(solver="fixed_point", stop_scope="sequence", f_thres=200, f_eps=1e-6)
    with torch.no_grad():
        z, info = deq(lambda z: gain * z + 1, torch.zeros(2, 1, dtype=torch.float64), iterates=[10])
    assert info.forward.sequence_steps[0] < 10
    assert torch.equal(info.iterates[0][0], z[0])
    torch.testing.assert_close(info.iterates[0][1], (1 - 0.9**10) / 0.1 * torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize(("iterates", "message"), [(0, "`iterates` is 0: pass 1 or more"), ([-1], "`iterates` is -1")])
def test_no_such_iterates(iterates, message, f, x):
    with pytest.raises(ValueError, match=message):
        DEQModule()(f, torch.zeros_like(x), iterates=iterates)


# -- callbacks and traces


@pytest.mark.parametrize("grad", GRADIENTS)
def test_a_callback_is_told_of_every_evaluation(grad, f, x):
    told = []
    deq = DEQModule(grad=grad, solver="fixed_point", f_thres=6, f_eps=0)
    _, info = deq(f, torch.zeros_like(x), callback=lambda k, z, residual: told.append((k, z.clone(), residual)))
    assert [k for k, _, _ in told] == list(range(len(info.forward.rel_trace)))
    assert [residual for _, _, residual in told] == pytest.approx(list(info.forward.rel_trace))
    for _, z, residual in told:
        image = f(z).detach()
        assert residual == pytest.approx(((image - z).norm() / image.norm()).item())


def test_a_callback_sees_states_as_the_map_does(x):
    told = []
    f = lambda z: [0.5 * z[0] + x, 0.5 * z[1] + 1]  # noqa: E731
    DEQModule()(f, [torch.zeros_like(x), torch.zeros(B, 1, dtype=x.dtype)], callback=lambda k, z, _: told.append(z))
    assert all(type(z) is list and z[1].shape == (B, 1) for z in told)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("stop_mode", ["rel", "abs"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_traces_of_every_sequence(solver, stop_mode, scope, f, x):
    deq = DEQModule(solver=solver, stop_mode=stop_mode, stop_scope=scope, f_eps=1e-9, b_eps=1e-9)
    seen = []
    z, info = deq(f, torch.zeros_like(x), sequence_traces=True, callback=lambda k, z, _: seen.append(z.clone()))
    z.sum().backward()
    traces = info.forward.sequence_traces
    assert [len(trace) for trace in traces] == [info.forward.n_evals] * B
    for row, trace in enumerate(traces):
        for k in range(3):
            image = f(seen[k])[row].detach()
            residual = (image - seen[k][row]).norm() / (image.norm() if stop_mode == "rel" else 1)
            assert trace[k] == pytest.approx(residual.item(), rel=1e-6)
        assert min(trace) == pytest.approx(info.forward.sequence_residuals[row]) or scope == "batch"
    assert len(info.backward.sequence_traces) == B
    assert DEQModule()(f, torch.zeros_like(x))[1].forward.sequence_traces == ()


# -- functions of several tensors


def test_an_unpacked_map_needs_several(x):
    with pytest.raises(ValueError, match="an unpacked map needs a state of several tensors"):
        DEQModule()(unpacked(lambda a, b: (a, b)), torch.zeros_like(x))
    with pytest.raises(ValueError, match="`jacobian_samples` is -1"):
        DEQModule()(torch.cos, torch.zeros_like(x), jacobian_samples=-1)


def test_functions_of_several_tensors(x):
    lstm = nn.LSTMCell(D, D).double()
    start = (torch.zeros_like(x), torch.zeros_like(x))
    (h, c), info = DEQModule(f_eps=1e-10)(unpacked(lambda h, c: lstm(x, (h, c))), start)
    assert info.forward.termination is Termination.CONVERGED
    for a, b in zip(lstm(x, (h, c)), (h, c), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
