"""A batch that is divided over processes, here threads: with a sum over all of them each stops where one would."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from problems import PROBLEMS, Problem
from torch import Tensor

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from modules.deq import DEQModule
from modules.report import SolveReport, Termination
from modules.solvers import anderson, broyden, fixed_point
from modules.tracker import BatchSum

SOLVERS = {
    "broyden": broyden,
    "broyden_3": partial(broyden, history=3),
    "anderson": anderson,
    "fixed_point": partial(fixed_point, damping=0.9),
}
LOOSE = {"f_thres": 30, "b_thres": 30, "f_eps": 1e-2, "b_eps": 1e-2}  # where a solve stops can be seen in its result
WAIT = 20.0  # seconds until a part that waits for the others gives up
DIVISIONS = [(range(0, 2), range(2, 7)), (range(0, 1), range(1, 4), range(4, 7))]  # of seven rows

divided_by = pytest.mark.parametrize("parts", DIVISIONS)
with_solver = pytest.mark.parametrize("solver", SOLVERS)


class Meeting:
    """Where parts of a batch, each in a thread of its own, add up their numbers; all get the same bits."""

    def __init__(self, n_parts: int):
        self.barrier = threading.Barrier(n_parts, timeout=WAIT)
        self.brought: list[Any] = [None] * n_parts

    def exchange(self, part: int, value: Any) -> list[Any]:
        self.brought[part] = value
        self.barrier.wait()
        everything = list(self.brought)
        self.barrier.wait()
        return everything

    def add_up(self, part: int, values: np.ndarray) -> np.ndarray:
        assert values.dtype == np.float64
        assert values.ndim == 1
        return np.sum(self.exchange(part, values), axis=0)


def divided(work: Callable[[range, BatchSum], Any], parts: tuple[range, ...]) -> list[Any]:
    """work(rows, batch_sum) of all parts at once. One that fails, or adds up more often than others, ends them all."""
    meeting = Meeting(len(parts))

    def attend(part: int) -> Any:
        try:
            result = work(parts[part], partial(meeting.add_up, part))
            assert meeting.exchange(part, "done") == ["done"] * len(parts)
            return result
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(len(parts)) as pool:
        futures = [pool.submit(attend, part) for part in range(len(parts))]
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def uneven() -> Problem:
    """Seven rows tanh(g W z + b) that converge at different speeds."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.3 * torch.randn(5, 5, generator=generator, dtype=torch.float64)
    offset = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    gain = torch.tensor([0.1, 0.5, 0.8, 1.1, 0.2, 1.0, 1.3], dtype=torch.float64).unsqueeze(1)

    def f(z: Tensor) -> Tensor:
        return torch.tanh(gain * (z.unsqueeze(1) * weight).sum(2) + offset)

    return Problem(f, torch.zeros_like(offset), None, 1.0)


def part_of(problem: Problem, rows: range) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """f and the start of these rows alone: f treats rows apart, so that the others may rest at the start."""
    held = slice(rows.start, rows.stop)

    def f(z: Tensor) -> Tensor:
        whole = problem.start.clone()
        whole[held] = z
        return problem.f(whole)[held]

    return f, problem.start[held]


def decisions(report: SolveReport) -> tuple[Any, ...]:
    ends = {*report.sequence_terminations}, {*report.sequence_steps}
    return report.termination, report.n_steps, report.n_evals, report.best_step, ends


def check_solves(solve: Callable[..., Any], problem: Problem, parts: tuple[range, ...]) -> SolveReport:
    """Solves the whole batch and its parts: the same steps, the same end, the same values."""
    whole = solve(*part_of(problem, range(len(problem.start))))
    results = divided(lambda rows, batch_sum: solve(*part_of(problem, rows), batch_sum=batch_sum), parts)
    torch.testing.assert_close(torch.cat([result.value for result in results]), whole.value, rtol=1e-12, atol=1e-12)
    first = results[0].report
    for rows, report in zip(parts, (result.report for result in results), strict=True):
        assert decisions(report) == decisions(whole.report)
        for name in ("abs_residual", "rel_residual", "abs_trace", "rel_trace"):
            np.testing.assert_array_equal(getattr(report, name), getattr(first, name))
            np.testing.assert_allclose(getattr(report, name), getattr(whole.report, name), rtol=1e-3, atol=1e-14)
        own = whole.report.sequence_residuals[rows.start : rows.stop]
        np.testing.assert_allclose(report.sequence_residuals, own, rtol=1e-3, atol=1e-14)
    return whole.report


# -- solvers


@with_solver
@pytest.mark.parametrize("stop_mode", ["rel", "abs"])
@pytest.mark.parametrize("name", ["diagonal", "rotation", "expanding", "tanh", "transformer", "pair", "jump"])
def test_parts_take_the_steps_of_the_whole(solver, stop_mode, name):
    problem = PROBLEMS[name](torch.float64).flattened()
    parts = tuple(range(row, row + 1) for row in range(len(problem.start)))
    check_solves(partial(SOLVERS[solver], threshold=40, eps=1e-6, stop_mode=stop_mode), problem, parts)


@divided_by
@with_solver
@pytest.mark.parametrize("eps", [1e-2, 1e-5])
def test_uneven_parts_stop_together(solver, parts, eps):
    problem = uneven()
    solve = partial(SOLVERS[solver], threshold=60, eps=eps)
    report = check_solves(solve, problem, parts)
    assert report.termination is Termination.CONVERGED
    alone = {solve(*part_of(problem, rows)).report.n_steps for rows in parts}
    assert alone != {report.n_steps}, "without a sum the parts stop elsewhere"


@divided_by
@with_solver
@pytest.mark.parametrize("threshold", [0, 1, 2, 3])
def test_few_steps(solver, parts, threshold):
    check_solves(partial(SOLVERS[solver], threshold=threshold), uneven(), parts)


@divided_by
@with_solver
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 3])
def test_what_is_not_finite_in_one_part_ends_them_all(solver, parts, at, value):
    class Poisoned:
        """f with something in row 2 that is no number, from its evaluation `at` on."""

        def __init__(self, f: Callable[[Tensor], Tensor], rows: range):
            self.f, self.rows, self.calls = f, rows, 0

        def __call__(self, z: Tensor) -> Tensor:
            fz = self.f(z)
            if 2 in self.rows and self.calls >= at:
                fz[self.rows.index(2), 1] = value
            self.calls += 1
            return fz

    def solve(rows: range, batch_sum: BatchSum | None = None) -> Any:
        f, start = part_of(uneven(), rows)
        return SOLVERS[solver](Poisoned(f, rows), start, threshold=20, eps=1e-12, batch_sum=batch_sum)

    whole, results = solve(range(7)), divided(solve, parts)
    for result in results:
        assert decisions(result.report) == decisions(whole.report)
        assert (result.report.termination, result.report.n_evals) == (Termination.NONFINITE, at + 1)
    value = torch.cat([result.value for result in results])
    assert value.isfinite().all()
    torch.testing.assert_close(value, whole.value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["broyden", "fixed_point"])
def test_parts_fall_back_to_the_start_together(solver):
    """The first row gets worse with every step, the second one better."""
    start, slope = torch.ones(2, 1, dtype=torch.float64), torch.tensor([[-3.0], [0.5]], dtype=torch.float64)
    problem = Problem(lambda z: slope * z**3, start, None, float("inf"))
    solve = partial(SOLVERS[solver], threshold=1, eps=1e-9, stop_mode="abs")
    assert check_solves(solve, problem, (range(0, 1), range(1, 2))).best_step == 0
    assert solve(*part_of(problem, range(1, 2))).report.best_step == 1


@with_solver
def test_sequences_that_stop_on_their_own_add_up_nothing(solver):
    def refused(values: np.ndarray) -> np.ndarray:
        raise AssertionError

    f, start = part_of(uneven(), range(7))
    SOLVERS[solver](f, start, threshold=20, stop_scope="sequence", batch_sum=refused)


def test_a_part_that_fails_takes_the_others_along():
    def fails(rows: range, batch_sum: BatchSum) -> None:
        if rows.start:
            raise FloatingPointError
        batch_sum(np.zeros(2))

    def adds_more(rows: range, batch_sum: BatchSum) -> None:
        for _ in rows:
            batch_sum(np.zeros(2))

    with pytest.raises(FloatingPointError):
        divided(fails, DIVISIONS[0])
    with pytest.raises((AssertionError, TypeError, ValueError)):
        divided(adds_more, DIVISIONS[0])


# -- the layer


def gradient(deq: DEQModule, rows: range) -> tuple[Tensor, SolveReport, SolveReport | None]:
    """Of Σ z³ over these rows, for a weight that all of them share; and the reports of both solves."""
    f, start = part_of(uneven(), rows)
    weight = torch.full((5,), 0.9, dtype=torch.float64, requires_grad=True)
    z, info = deq(lambda z: f(weight * z), start)
    return torch.autograd.grad(z.pow(3).sum(), weight)[0], info.forward, info.backward


@divided_by
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "anderson", "b_stop_mode": "abs"},
        {"solver": "fixed_point", "stop_mode": "abs"},
        {"b_init": "shine"},
        {"b_solver": "anderson", "f_thres": 2, "b_thres": 1},
        {"grad": "phantom"},
        {"grad": "one_step"},
        {"grad": "unroll", "f_thres": 6},
        {"f_thres": 0},
    ],
)
def test_gradients_of_parts_add_up_to_the_whole(parts, options):
    make = partial(DEQModule, **(LOOSE | options))
    expected, *reports = gradient(make(), range(7))
    results = divided(lambda rows, batch_sum: gradient(make(batch_sum=batch_sum), rows), parts)
    torch.testing.assert_close(sum(result[0] for result in results), expected, rtol=1e-11, atol=1e-12)
    for _, *own in results:
        for report, whole in zip(own, reports, strict=True):
            assert (report is None) == (whole is None)
            assert report is None or decisions(report) == decisions(whole)
            assert report is None or report.rel_residual == pytest.approx(whole.rel_residual, rel=1e-6)


@pytest.mark.parametrize("grad", ["implicit", "unroll"])
def test_parts_that_draw_their_thresholds_stop_on_their_own(grad):
    sums = []
    deq = DEQModule(grad=grad, f_thres=6, f_thres_delta=2, batch_sum=lambda values: sums.append(values) or values)
    gradient(deq, range(0, 2))
    assert not sums
    _, *reports = gradient(deq.eval(), range(0, 2))
    assert len(sums) == sum(report.n_evals + 1 for report in reports if report)


def test_a_sum_is_no_option_of_a_solver_and_not_shown():
    with pytest.raises(ValueError, match="f_options: broyden has no option 'batch_sum': choose from history"):
        DEQModule(f_options={"batch_sum": None})
    assert repr(DEQModule(batch_sum=np.copy)) == repr(DEQModule())
    batch_sum = partial(Meeting(1).add_up, 0)  # its barrier cannot be copied
    assert DEQModule(batch_sum=batch_sum).batch_sum is batch_sum
    assert DEQModule().batch_sum is None


# -- the language model


def language_model() -> DEQTransformerLM:
    torch.manual_seed(0)
    sizes = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 8, "mem_len": 5}
    model = DEQTransformerLM(DEQTransformerConfig(**sizes, cutoffs=(10,), div_val=2)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def losses_and_gradients(model: DEQTransformerLM, depth: DEQModule, rows: range) -> Tensor:
    """Of three segments of 4 tokens: the loss of these rows weighted by their share, and its gradient, (3, P + 1)."""
    stream = torch.randint(30, (13, 7), generator=torch.Generator().manual_seed(1))[:, rows.start : rows.stop]
    memory, found = None, []
    for start in (0, 4, 8):
        output = model(stream[start : start + 4], stream[start + 1 : start + 5], memory, depth)
        memory = output.memory
        loss = output.nll.mean() * len(rows) / 7
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.cat([loss.detach().view(1), *(each.flatten() for each in gradients)]))
    return torch.stack(found)


@divided_by
@pytest.mark.parametrize("solver", ["broyden", "anderson"])
def test_the_language_model_on_parts(parts, solver):
    model, alone = language_model(), DEQModule(solver=solver, **LOOSE)
    whole = losses_and_gradients(model, alone, range(7))

    def of_part(rows: range, batch_sum: BatchSum) -> Tensor:
        return losses_and_gradients(model, DEQModule(solver=solver, batch_sum=batch_sum, **LOOSE), rows)

    torch.testing.assert_close(sum(divided(of_part, parts)), whole, rtol=1e-9, atol=1e-9)
    apart = sum(losses_and_gradients(model, alone, rows) for rows in parts)
    assert (apart - whole).abs().max() > 1e-4, "without a sum the parts stop elsewhere"
