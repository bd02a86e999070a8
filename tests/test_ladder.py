"""A solve that begins in bfloat16: equilibrium and gradient of single precision, and how many evaluations in each."""

import pytest
import torch
from problems import PROBLEMS, conditioning
from solved_model import SolvedLM
from tiny_transformer import TINY, batch
from torch import nn
from torch.nn.utils import parametrizations

from models.context import Context
from modules.deq import DEQModule
from modules.ladder import LOW, NOISE, PRECISIONS, lowered
from modules.report import Termination
from modules.solvers import SOLVERS
from modules.stop_rule import STOP_MODES
from modules.tracker import STOP_SCOPES

B, L, D, EPS = 4, 5, 12, 1e-4


class Counted:
    """A map that counts its evaluations by the dtype that it is evaluated in."""

    def __init__(self, f, dtype=torch.float32, counts=None):
        self.f, self.dtype, self.counts = f, dtype, {} if counts is None else counts

    def __call__(self, z):
        assert z.dtype == self.dtype
        self.counts[z.dtype] = self.counts.get(z.dtype, 0) + 1
        return self.f(z)

    def cast(self, dtype):
        return Counted(self.f, dtype, self.counts)


@pytest.fixture
def weight():
    return torch.randn(D, D, generator=torch.Generator().manual_seed(0)) / D**0.5 / 2


@pytest.fixture
def x():
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))


def layer(weight, x):
    """z ↦ tanh(z W + x), in the dtype of z."""
    return lambda z: torch.tanh(z @ weight.to(z.dtype) + x.to(z.dtype))


def solved(weight, x, *, solver="broyden", **settings):
    """The equilibrium, the gradients of Σ z² by W and x, and the reports."""
    weight, x = weight.clone().requires_grad_(), x.clone().requires_grad_()
    settings = {"f_thres": 60, "b_thres": 60, "f_eps": EPS, "b_eps": EPS} | settings
    z, info = DEQModule(solver=solver, **settings)(layer(weight, x), torch.zeros_like(x))
    return z, torch.autograd.grad(z.square().sum(), (weight, x)), info


def apart(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("stop_scope", STOP_SCOPES)
@pytest.mark.parametrize("stop_mode", STOP_MODES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_equilibrium_and_gradient_are_those_of_the_oracle(solver, stop_mode, stop_scope, weight, x):
    z, gradients, info = solved(weight, x, solver=solver, stop_mode=stop_mode, stop_scope=stop_scope, amp="bf16")
    exact, of_exact, _ = solved(weight.double(), x.double(), f_eps=1e-12, b_eps=1e-12)
    assert apart(z, exact) < 3 * EPS
    assert all(apart(own, true) < 5 * EPS for own, true in zip(gradients, of_exact, strict=True))
    for report in (info.forward, info.backward):
        assert report.termination is Termination.CONVERGED
        assert 2 <= report.n_low_evals < report.n_evals
        assert report.rel_residual < EPS or stop_mode == "abs"


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_no_more_than_without(solver, weight, x):
    with_it, without = (solved(weight, x, solver=solver, amp=amp)[2] for amp in ("bf16", "off"))
    for own, plain in ((with_it.forward, without.forward), (with_it.backward, without.backward)):
        assert plain.n_low_evals == 0
        assert own.n_evals <= plain.n_evals + 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted_by_precision(solver, weight, x):
    f = Counted(layer(weight, x))
    with torch.no_grad():
        _, info = DEQModule(solver=solver, amp="bf16", f_thres=60, f_eps=EPS)(f, torch.zeros_like(x))
    report = info.forward
    assert f.counts == {LOW: report.n_low_evals, torch.float32: report.n_evals - report.n_low_evals}
    assert len(report.rel_trace) == report.n_evals
    low, full = report.rel_trace[: report.n_low_evals], report.rel_trace[report.n_low_evals :]
    assert min(low) == low[-1] < NOISE <= min(low[:-1])
    assert min(full) == report.rel_residual


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_no_problem_is_answered_worse_than_without(name, solver):
    problem = PROBLEMS[name](torch.float32).flattened()
    plain, ladder = (
        SOLVERS[solver]()(problem.f, problem.start, threshold=80, eps=EPS, low=low)
        for low in (None, lowered(problem.f, problem.start, "bf16"))
    )
    if plain.report.termination is not Termination.CONVERGED or problem.equilibrium is None:
        return
    assert ladder.report.termination is Termination.CONVERGED
    true = PROBLEMS[name](torch.float64).flattened()
    scale = max(true.equilibrium.norm().item(), 1e-3)
    error = (ladder.value.double() - true.equilibrium).norm().item()
    assert error <= 2 * EPS * max(conditioning(true), 1) * scale


def other(f):
    return lambda z: torch.tanh(z) / 3 + 2  # has another equilibrium


def noisy(f):
    generator = torch.Generator().manual_seed(2)
    return lambda z: f(z) + 0.05 * torch.randn(z.shape, generator=generator)


def spoilt(f):
    calls = []
    return lambda z: f(z) * (float("nan") if calls.append(0) or len(calls) > 2 else 1)


def explosive(f):
    return lambda z: 30 * f(z) + 40 * z


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("low", [other, noisy, spoilt, explosive])
def test_what_low_precision_found_is_never_the_answer(low, solver, weight, x):
    f = layer(weight, x)
    exact = SOLVERS["broyden"]()(layer(weight.double(), x.double()), x.double(), threshold=80, eps=1e-12).value
    result = SOLVERS[solver]()(f, torch.zeros_like(x), threshold=80, eps=EPS, low=low(f))
    assert result.report.termination is Termination.CONVERGED
    assert 0 < result.report.n_low_evals < result.report.n_evals
    assert apart(result.value, exact) < 3 * EPS


def test_a_loose_eps_is_met_in_full_precision(weight, x):
    z, _, info = solved(weight, x, amp="bf16", f_eps=0.1)
    z_star = z.detach()
    assert info.forward.n_low_evals < info.forward.n_evals
    f = layer(weight, x)
    assert (f(z_star) - z_star).norm() / f(z_star).norm() < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("threshold", [0, 1, 2, 4])
def test_the_last_evaluation_is_in_full_precision(threshold, solver, weight, x):
    f = layer(weight, x)
    result = SOLVERS[solver]()(f, torch.zeros_like(x), threshold=threshold, eps=EPS, low=lowered(f, x, "bf16"))
    report = result.report
    assert report.n_low_evals == max(report.n_evals - 1, 0)
    if report.n_evals:
        true = (f(result.value) - result.value).norm().item()
        assert report.abs_residual == pytest.approx(true, rel=1e-5)


def test_where_there_is_no_ladder(weight, x):
    assert lowered(torch.cos, x, "off") is None
    assert lowered(torch.cos, x.double(), "bf16") is None
    assert lowered(torch.cos, x.bfloat16(), "bf16") is None
    plain, ladder = (solved(weight.double(), x.double(), amp=amp) for amp in PRECISIONS)
    assert torch.equal(plain[0], ladder[0])
    with torch.autocast("cpu", dtype=LOW):
        *_, info = solved(weight, x, amp="bf16", f_eps=3e-2, b_eps=3e-2)
    assert info.forward.n_low_evals == info.backward.n_low_evals == 0
    with pytest.raises(ValueError, match="`amp` is 'fp8': choose one of off, bf16"):
        DEQModule(amp="fp8")


def test_a_map_that_writes_into_its_argument(weight, x):
    f = layer(weight, x)

    def writes(z):
        fz = f(z)
        z.zero_()
        return fz

    with torch.no_grad():
        one, other = (DEQModule(amp="bf16", f_eps=EPS)(g, torch.zeros_like(x))[0] for g in (f, writes))
    assert torch.equal(one, other)


def test_weights_that_are_computed_stay_what_they_were(x):
    torch.manual_seed(0)
    linear = parametrizations.spectral_norm(nn.Linear(D, D))
    deq = DEQModule(amp="bf16", f_eps=EPS, b_eps=EPS)
    z, info = deq(lambda z: torch.tanh(linear(z) / 2 + x), torch.zeros_like(x))
    before = linear.parametrizations.weight[0]._u.clone()
    z.sum().backward()
    assert info.backward.n_low_evals > 0
    assert torch.equal(linear.parametrizations.weight[0]._u, before)


def test_several_tensors(weight, x):
    def f(z):
        return torch.tanh(z[0] @ weight.to(z[0].dtype) + x), torch.tanh(z[1] / 2 + z[0])

    z, info = DEQModule(amp="bf16", f_eps=EPS)(f, (torch.zeros_like(x), torch.zeros_like(x)))
    assert 0 < info.forward.n_low_evals < info.forward.n_evals
    assert all(apart(own, image) < 3 * EPS for own, image in zip(z, f(z), strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_language_model_is_cast_once_and_scores_the_same(dropout, monkeypatch):
    settings = {"dropout": dropout, "dropatt": dropout, "solver": "broyden", "f_thres": 40, "b_thres": 40}
    runs = {}
    for amp in PRECISIONS:
        torch.manual_seed(0)
        model = SolvedLM(**(TINY | settings), amp=amp, f_eps=EPS, b_eps=EPS).train()
        casts = []
        monkeypatch.setattr("models.protocol.Context.to", counting(casts))
        torch.manual_seed(1)
        out = model(*batch())
        out.nll.mean().backward()
        monkeypatch.undo()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        runs[amp] = (out.nll, gradients, out.solve, casts.count("CellContext"))
    (nll, gradients, _, none), (of_ladder, own, solve, casts) = runs["off"], runs["bf16"]
    assert (none, casts) == (0, 2)  # for the forward and the backward solve
    assert min(solve.forward.n_low_evals, solve.backward.n_low_evals) >= 2
    assert apart(of_ladder, nll) < 1e-4
    assert apart(own, gradients) < 1e-3


def counting(casts):
    original = Context.to

    def to(self, dtype):
        casts.append(type(self).__name__)
        return original(self, dtype)

    return to
