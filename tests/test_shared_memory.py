"""What a map may do with memory; and results have memory of their own, not the caller's, the map's or the solver's."""

import pytest
import torch

from modules.deq import DEQModule
from modules.settings import GRADIENTS
from modules.solvers import SOLVERS

B, D = 4, 8
SCOPES = ("batch", "sequence")


@pytest.fixture(autouse=True)
def problem():
    """tanh(z W + x), which contracts."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.2 * torch.randn(D, D, generator=generator, dtype=torch.float64)
    return weight, torch.randn(B, D, generator=generator, dtype=torch.float64)


def start() -> torch.Tensor:
    return torch.full((B, D), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("inference", [False, True])
def test_a_map_may_use_the_memory_of_its_output_again(solver, scope, inference, problem):
    weight, x = problem
    buffer = torch.empty_like(x)

    def solved(f):
        return SOLVERS[solver]()(f, start(), threshold=30, eps=1e-9, stop_scope=scope)

    with torch.inference_mode(inference):
        wanted = solved(lambda z: torch.tanh(z @ weight + x))
        found = solved(lambda z: torch.tanh(z @ weight + x, out=buffer))
    assert found.report == wanted.report
    assert torch.equal(found.value, wanted.value)
    assert found.report.n_evals > 5


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("inference", [False, True])
def test_a_map_may_write_into_its_argument(solver, scope, inference, problem):
    _, x = problem
    z0 = start()

    def solved(f, z0):
        return SOLVERS[solver]()(f, z0, threshold=40, eps=1e-9, stop_scope=scope)

    with torch.inference_mode(inference):
        wanted = solved(lambda z: (z / 2 + x).tanh(), start())
        found = solved(lambda z: z.div_(2).add_(x).tanh_(), z0)
    assert found.report == wanted.report
    assert torch.equal(found.value, wanted.value)
    assert torch.equal(z0, start())


def test_a_map_that_begins_to_write_into_its_argument_is_refused(problem):
    calls = []

    def f(z):
        calls.append(1)
        return z.div_(2) if len(calls) > 2 else z / 2 + 1

    with pytest.raises(ValueError, match="in the middle of a solve: let it work on a copy"):
        SOLVERS["broyden"]()(f, start(), threshold=9, eps=0)


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


MAPS = {
    "a buffer": lambda buffer: lambda z: torch.mul(z.detach(), 0.5, out=buffer),
    "itself": lambda buffer: lambda z: z,
    "a constant": lambda buffer: lambda z: buffer,
    "nan": lambda buffer: lambda z: buffer.fill_(torch.nan),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("threshold", [0, 1, 2, 9])
@pytest.mark.parametrize("kind", MAPS)
def test_results_have_memory_of_their_own(solver, threshold, kind):
    buffer, z0 = torch.ones(B, D, dtype=torch.float64), start()
    f = MAPS[kind](buffer)
    values = [SOLVERS[solver]()(f, z0, threshold=threshold, eps=1e-9).value]
    for grad in GRADIENTS:
        deq = DEQModule(solver=solver, grad=grad, f_thres=threshold, b_thres=0)
        values.append(deq(f, z0)[0])
        with torch.no_grad():
            values.append(deq(f, z0)[0])
    for value in values:
        assert storage(value) not in (storage(buffer), storage(z0))
    assert torch.equal(z0, start())
