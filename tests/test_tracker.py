"""Solving per sequence: the same result alone and in any batch, frozen and dropped sequences, and what reports say."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from problems import PROBLEMS
from torch import Tensor

from modules import tracker
from modules.deq import DEQModule
from modules.loop import COMPACT_BELOW
from modules.report import Termination
from modules.solvers import anderson, broyden, fixed_point
from modules.tracker import Tracker

SOLVERS = {
    "broyden": broyden,
    "broyden_3": partial(broyden, history=3),
    "anderson": anderson,
    "fixed_point": partial(fixed_point, damping=0.9),
}
ROWS = 7
NAN_ROW, DIVERGING_ROW, RESTING_ROW = 2, 4, 5


@dataclass
class Rows:
    """Row by row tanh(g W z + b): rows of every speed, one NaN, one that diverges and one at rest from the start."""

    gain: Tensor
    weight: Tensor
    offset: Tensor
    seen: list[int]

    def __call__(self, z: Tensor) -> Tensor:
        self.seen.append(len(z))
        mapped = torch.tanh(self.gain * (z.unsqueeze(1) * self.weight).sum(2)) + self.offset
        return torch.where(self.gain > 10, z + 1 + z.square(), mapped)


class Selectable(Rows):
    """The same, able to drop rows."""

    def select(self, rows: Tensor) -> "Selectable":
        return Selectable(self.gain[rows], self.weight, self.offset[rows], self.seen)


def rows_map(kind=Selectable, rows=slice(None)) -> Rows:
    generator = torch.Generator().manual_seed(0)
    weight = 0.3 * torch.randn(5, 5, generator=generator, dtype=torch.float64)
    offset = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    gain = torch.tensor([0.1, 0.5, 0.8, 1.1, 50.0, 1.0, 1.3], dtype=torch.float64).unsqueeze(1)
    offset[NAN_ROW] = math.nan
    offset[RESTING_ROW] = 0
    return kind(gain[rows], weight, offset[rows], [])


def start(rows=slice(None)) -> Tensor:
    return torch.zeros(ROWS, 5, dtype=torch.float64)[rows]


SETTINGS = {"threshold": 120, "eps": 1e-7, "stop_scope": "sequence"}


@pytest.mark.parametrize("kind", [Rows, Selectable])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batch", [range(ROWS), (6, 4, 0), (2, 3), (5, 1, 1, 2, 4, 4, 2)])
def test_a_sequence_does_not_depend_on_its_mates(solver, batch, kind):
    batch = list(batch)
    together = SOLVERS[solver](rows_map(kind, batch), start(batch), **SETTINGS)
    for place, row in enumerate(batch):
        alone = SOLVERS[solver](rows_map(kind, [row]), start([row]), **SETTINGS)
        torch.testing.assert_close(together.value[place], alone.value[0], rtol=1e-9, atol=1e-9)
        report = together.report
        assert report.sequence_terminations[place] is alone.report.termination
        assert report.sequence_steps[place] == alone.report.best_step
        assert report.sequence_residuals[place] == pytest.approx(alone.report.residual, rel=1e-3)
    assert together.value.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_reasons_are_each_sequences_own(solver):
    report = SOLVERS[solver](rows_map(), start(), **SETTINGS).report
    assert report.sequence_terminations[NAN_ROW] is Termination.NONFINITE
    assert report.sequence_residuals[NAN_ROW] == math.inf
    assert report.sequence_terminations[DIVERGING_ROW] is not Termination.CONVERGED
    for row in {*range(ROWS)} - {NAN_ROW, DIVERGING_ROW}:
        assert report.sequence_terminations[row] is Termination.CONVERGED
        assert report.sequence_residuals[row] < SETTINGS["eps"]
    assert report.termination is Termination.NONFINITE
    assert report.n_unconverged == 2
    assert report.stop_scope == "sequence"
    assert report.best_step == max(report.sequence_steps)
    assert len(report.abs_trace) == len(report.rel_trace) == report.n_evals == report.n_steps + 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_finished_sequences_leave_the_batch_that_f_sees(solver):
    f = rows_map()
    report = SOLVERS[solver](f, start(), **SETTINGS).report
    ends = [end + 1 for end in report.sequence_steps]  # evaluations that each of the others needed
    open_rows = [sum(k < end for end in ends) for k in range(report.n_evals)]
    assert len(f.seen) == report.n_evals
    assert f.seen == sorted(f.seen, reverse=True)
    assert f.seen[-1] < ROWS / 2
    # f sees at most 1 / COMPACT_BELOW times what is open; the row that diverges is open beyond its best iterate
    for seen, still_open in zip(f.seen[1:], open_rows[1:], strict=True):
        assert seen <= (still_open + 1) / COMPACT_BELOW
    masked = rows_map(Rows)
    SOLVERS[solver](masked, start(), **SETTINGS)
    assert set(masked.seen) == {ROWS}


def test_a_finished_sequence_stays_where_it_stopped():
    visited = []
    f = rows_map(Rows)

    def watched(z):
        visited.append(z.clone())
        return f(z)

    result = broyden(watched, start(), **SETTINGS)
    for row in (0, 1):
        last = result.report.sequence_steps[row]
        assert all(torch.equal(z[row], result.value[row]) for z in visited[last:])
        assert last < len(visited) - 1


def test_batch_scope_is_spoilt_by_a_nan_row_and_says_so():
    report = broyden(rows_map(), start(), threshold=40, eps=1e-7).report
    assert report.termination is Termination.NONFINITE
    assert set(report.sequence_terminations) == {Termination.NONFINITE}
    assert report.n_evals == 1
    assert report.abs_residual == report.rel_residual == math.inf


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_a_batch_of_one_is_the_same_in_both_scopes(scope):
    problem = PROBLEMS["transformer"](torch.float64)
    f = problem.f.select(torch.tensor([1]))
    result = broyden(f, problem.start[1:], threshold=60, eps=1e-9, stop_scope=scope)
    reference = broyden(f, problem.start[1:], threshold=60, eps=1e-9)
    assert torch.equal(result.value, reference.value)
    assert result.report.rel_trace == reference.report.rel_trace
    assert result.report.n_evals == reference.report.n_evals


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_transformer_cell_in_batches_and_alone(solver):
    problem = PROBLEMS["transformer"](torch.float64)
    settings = {"threshold": 120, "eps": 1e-9, "stop_scope": "sequence"}
    for row in range(2):
        f = problem.f.select(torch.tensor([row, 1 - row, row]))
        z = SOLVERS[solver](f, problem.start[[0, 0, 0]], **settings).value
        torch.testing.assert_close(z[0], problem.equilibrium[row], rtol=0, atol=1e-6)
        torch.testing.assert_close(z[0], z[2], rtol=0, atol=1e-10)


def test_tuples_leave_the_batch_too():
    seen = []

    class Halves:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, state):
            x, y = state
            seen.append(len(x))
            return self.rate * y + 1, self.rate[:, :, None] * x[:, :, None]

        def select(self, rows):
            return Halves(self.rate[rows])

    rate = torch.tensor([[0.0], [0.0], [0.5]], dtype=torch.float64)
    f = Halves(rate)
    deq = DEQModule(solver="fixed_point", stop_scope="sequence", f_thres=60, f_eps=1e-9)

    class OnVectors(Halves):
        def __call__(self, state):
            x, y = state
            new_x, new_y = super().__call__((x, y[:, :, 0]))
            return new_x, new_y

        def select(self, rows):
            return OnVectors(self.rate[rows])

    with torch.no_grad():
        (x, y), info = deq(OnVectors(rate), (torch.zeros(3, 1).double(), torch.zeros(3, 1, 1).double()))
    exact = 1 / (1 - f.rate**2)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(y[:, :, 0], f.rate * exact, rtol=0, atol=1e-8)
    assert info.forward.termination is Termination.CONVERGED
    assert seen[0] == 3
    assert seen[-1] == 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("threshold", [0, 1, 2, 3])
def test_small_thresholds_per_sequence(solver, threshold):
    result = SOLVERS[solver](rows_map(), start(), threshold=threshold, eps=1e-7, stop_scope="sequence")
    assert result.value.isfinite().all()
    assert result.report.n_evals <= threshold + 1
    assert len(result.report.sequence_terminations) == ROWS


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_nothing_worse_than_the_start_is_returned(scope):
    """The first row gets worse with every step, the second one better."""
    start = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    slope = torch.tensor([[-3.0], [0.5]], dtype=torch.float64)
    result = fixed_point(lambda z: slope * z, start, threshold=5, eps=1e-9, stop_mode="abs", stop_scope=scope)
    if scope == "sequence":
        assert result.report.sequence_steps == (0, 5)
        torch.testing.assert_close(result.value, torch.tensor([[1.0], [0.5**5]], dtype=torch.float64))
        assert result.report.sequence_residuals == pytest.approx((4.0, 0.5**6))
        assert result.report.abs_residual == pytest.approx(math.hypot(4.0, 0.5**6))
    else:
        assert result.report.best_step == 0
        assert torch.equal(result.value, start)
        assert result.report.abs_residual == pytest.approx(math.hypot(4.0, 0.5))


def test_a_state_of_one_number_per_sequence():
    offset = torch.tensor([1.0, -2.0], dtype=torch.float64)
    for solver in SOLVERS.values():
        result = solver(lambda z: 0.5 * torch.cos(z) + offset, torch.zeros_like(offset), threshold=40, eps=1e-9)
        assert result.value.shape == (2,)
        assert result.report.termination is Termination.CONVERGED


def test_one_transfer_a_step(monkeypatch):
    """Norms are the only thing that the host waits for: two numbers per sequence."""
    transfers = []
    to_host = Tensor.cpu
    monkeypatch.setattr(tracker, "host_view", lambda x: None)  # as on a device whose memory the host does not see
    monkeypatch.setattr(Tensor, "cpu", lambda x: transfers.append(x.shape) or to_host(x))
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(Tensor, name, lambda *_: pytest.fail("another synchronisation"))
    for scope in ("batch", "sequence"):
        for solver in SOLVERS.values():
            transfers.clear()
            problem_map = rows_map(rows=[0, 1, 3])
            report = solver(problem_map, start([0, 1, 3]), threshold=40, eps=1e-7, stop_scope=scope).report
            assert len(transfers) == report.n_evals
            assert transfers[0] == (2, 3)


def test_unknown_scopes_raise():
    with pytest.raises(ValueError, match=r"`stop_scope` is 'row': choose one of batch, sequence"):
        Tracker(start(), positions=1, eps=0, stop_mode="rel", stop_scope="row", first_candidate=0)
