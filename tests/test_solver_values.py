"""Solvers as values: their options are checked when they are made, and nothing is run for it."""

import dataclasses
import pickle

import pytest
import torch
from problems import PROBLEMS
from torch.utils._python_dispatch import TorchDispatchMode

from modules.anderson import Anderson
from modules.broyden import Broyden
from modules.deq import DEQModule
from modules.fixed_point import FixedPoint
from modules.settings import Settings
from modules.solver import Solver
from modules.solvers import SOLVERS, anderson, broyden, fixed_point, make_solver

FUNCTIONS = {"anderson": anderson, "broyden": broyden, "fixed_point": fixed_point}
OPTIONS = {"anderson": {"m": 3, "lam": 1e-4, "beta": 0.8}, "broyden": {"history": 2}, "fixed_point": {"damping": 0.5}}


class Nothing(TorchDispatchMode):
    """Inside, no operation may run."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was run")


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_frozen_values_with_all_their_options_as_fields(name):
    solver, same = make_solver(name, OPTIONS[name]), SOLVERS[name](**OPTIONS[name])
    assert solver == same
    assert hash(solver) == hash(same)
    assert solver != SOLVERS[name]()
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert dataclasses.asdict(solver) == OPTIONS[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(solver, next(iter(OPTIONS[name])), 1)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_function_takes_the_arguments_of_both(name):
    problem = PROBLEMS["tanh"](torch.float64)
    arguments = {"threshold": 9, "eps": 1e-6, "stop_mode": "abs", "stop_scope": "sequence"}
    expected = SOLVERS[name](**OPTIONS[name])(problem.f, problem.start, **arguments)
    found = FUNCTIONS[name](problem.f, problem.start, **OPTIONS[name], **arguments)
    assert torch.equal(found.value, expected.value)
    assert found.report == expected.report


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Anderson(m=0), "`m` is 0: pass 1 or more"),
        (lambda: Anderson(lam=-1.0), "`lam` is -1.0: pass 0 or more"),
        (lambda: Anderson(lam=float("nan")), "`lam` is nan"),
        (lambda: Anderson(beta=0), "`beta` is 0: pass a number above 0 and at most 1"),
        (lambda: Broyden(history=0), "`history` is 0: pass 1 or more"),
        (lambda: FixedPoint(damping=1.5), "`damping` is 1.5: pass a number above 0 and at most 1"),
        (lambda: FixedPoint(damping=float("nan")), "`damping` is nan"),
        (lambda: make_solver("anderson", {"history": 3}), "anderson has no option 'history': choose from m, lam, beta"),
        (lambda: broyden(abs, torch.zeros(1), threshold=1, m=3), "broyden has no option 'm': choose from history"),
    ],
)
def test_bad_options_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "evals", "candidates"),
    [
        ("anderson", [0, 1, 2, 3], [0, 0, 1, 2]),
        ("broyden", [1, 2, 3, 4], [1] * 4),
        ("fixed_point", [1, 2, 3, 4], [1] * 4),
    ],
)
def test_what_a_threshold_means(name, evals, candidates):
    solver = SOLVERS[name]()
    assert [solver.max_evals(threshold) for threshold in range(4)] == evals
    assert [solver.first_candidate(threshold) for threshold in range(4)] == candidates


@pytest.mark.parametrize("name", SOLVERS)
def test_a_layer_runs_nothing_to_check_its_settings(name, monkeypatch):
    monkeypatch.setattr(Solver, "__call__", lambda *_, **__: pytest.fail("a solve"))
    with Nothing():
        deq = DEQModule(solver=name, f_options=OPTIONS[name])
        assert deq.solver == deq.b_solver == SOLVERS[name](**OPTIONS[name])
        with pytest.raises(ValueError, match=r"f_options: "):
            DEQModule(solver=name, f_options=dict.fromkeys(OPTIONS[name], -1))


def test_a_layer_reads_its_attributes_at_every_call():
    problem = PROBLEMS["tanh"](torch.float64)
    deq = DEQModule(f_thres=3, f_eps=0)
    with torch.no_grad():
        assert deq(problem.f, problem.start)[1].forward.n_evals == 4
        deq.f_thres = 5
        assert deq(problem.f, problem.start)[1].forward.n_evals == 6
        deq.solver = Anderson(m=2)
        assert deq(problem.f, problem.start)[1].forward.n_evals == 5
    assert "solver=Anderson(m=2, lam=None, beta=1.0), b_solver=None, f_thres=5" in repr(deq)


RANGES = {field.name: field.metadata["numbers"] for field in dataclasses.fields(Settings) if field.metadata["numbers"]}


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_those_that_are_checked(name):
    numbers = RANGES[name]
    lowest = numbers.least if numbers.above is None else numbers.above
    with pytest.raises(ValueError, match=rf"`{name}` is {lowest - 1}: pass "):
        DEQModule(**{name: lowest - 1})
    DEQModule(**{name: lowest if lowest in numbers else numbers.most or 0.5})
