"""Depths: a number of applications, an equilibrium, and how they follow one another over a run."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from modules.depth import Applications, DepthSchedule
from modules.deq import DEQModule
from modules.iterate import iterate


@pytest.fixture
def weight():
    generator = torch.Generator().manual_seed(0)
    return (0.3 * torch.randn(4, 4, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def f(weight):
    return lambda z: torch.tanh(z @ weight + 1)


@pytest.fixture
def start():
    return torch.zeros(2, 3, 4, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_applications_are_a_loop_with_its_gradient(n, f, weight, start):
    expected = start
    for _ in range(n):
        expected = f(expected)
    found, solve = Applications(n)(f, start)
    assert solve is None
    assert torch.equal(found, expected)
    a, b = (torch.autograd.grad(z.square().sum(), weight)[0] for z in (found, expected))
    assert torch.equal(a, b)


def test_applications_take_tuples(f, start):
    (x, y), _ = Applications(2)(lambda state: (f(state[1]), state[0]), (start, start))
    assert torch.equal(x, f(start))
    assert torch.equal(y, f(start))


def test_an_equilibrium_is_a_depth_too(f, start):
    depths = [Applications(200), DEQModule(f_thres=50, f_eps=1e-12)]
    (unrolled, nothing), (solved, solve) = (depth(f, start) for depth in depths)
    torch.testing.assert_close(solved, unrolled, rtol=0, atol=1e-10)
    assert nothing is None
    assert solve.forward.n_evals < 50


@pytest.mark.parametrize("n", [0, -3])
def test_no_application_is_refused(n):
    with pytest.raises(ValueError, match=f"`n` is {n}: pass 1 or more"):
        Applications(n)


def test_a_schedule_gives_the_stage_that_began_last():
    shallow, deep, deq = Applications(2), Applications(6), DEQModule()
    schedule = DepthSchedule(((10, shallow), (20, deep), (30, deq)))
    expected = {-5: shallow, 9: shallow, 10: shallow, 19: shallow, 20: deep, 29: deep, 30: deq, 10**9: deq}
    assert {step: schedule.at(step) for step in expected} == expected
    assert DepthSchedule(((0, deq),)).at(0) is deq


def test_depths_are_values():
    schedule = DepthSchedule(((0, Applications(2)), (5, Applications(3))))
    assert copy.deepcopy(schedule) == schedule
    assert Applications(2) != Applications(3)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "`stages` is empty"),
        (((0, Applications(1)), (0, Applications(2))), "`stages` begin at the steps 0, 0: pass them in rising order"),
        (((5, Applications(1)), (3, Applications(2))), "`stages` begin at the steps 5, 3"),
    ],
)
def test_stages_that_are_no_schedule_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        DepthSchedule(stages)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("damping", [1.0, 0.4])
def test_the_damped_and_the_recomputed_iteration(damping, recompute, f, weight, start):
    expected = start
    for _ in range(4):
        expected = torch.lerp(expected, f(expected), damping)
    found = iterate(f, start, steps=4, damping=damping, recompute=recompute)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    a, b = (torch.autograd.grad(z.square().sum(), weight)[0] for z in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_recomputing_runs_f_again_on_backward(f, weight, start):
    calls = []

    def counted(z):
        calls.append(len(z))
        return f(z)

    z = iterate(counted, start, steps=3, recompute=True)
    assert len(calls) == 3
    z.sum().backward()
    assert len(calls) == 6
    by_hand = checkpoint(f, start, use_reentrant=False)
    assert torch.equal(iterate(f, start, steps=1, recompute=True), by_hand)


def test_no_steps_give_the_start_itself(f, start):
    assert iterate(f, start, steps=0) is start
