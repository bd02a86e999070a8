"""The bookkeeping of all solvers: norms, traces and the best iterate of each sequence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .checks import check_choice
from .report import REASONS, SolveReport, SolverResult
from .stop_rule import OPEN, StopRule, relative

# Adds up float64 numbers (k,) over all who hold a part of the batch; the same bits for all of them.
BatchSum = Callable[[np.ndarray], np.ndarray]

STOP_SCOPES = ("batch", "sequence")
SMALL_SQUARE = 1e-280  # of the batch's norm, in double precision


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over x: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def by_row(x: Tensor) -> Tensor:
    """(B, *) to (B, N), a number per sequence (B,) to (B, 1)."""
    return x if x.dim() == 2 else x.reshape(len(x), math.prod(x.shape[1:]))


def host_view(x: Tensor) -> np.ndarray | None:
    """The memory of x as the host sees it, None where x lies elsewhere."""
    return x.numpy() if x.device.type == "cpu" else None


class Norms:
    """‖x_b‖ of the rows of two tensors (b, N) at once, on the host."""

    def __init__(self) -> None:
        self.found: Tensor | None = None  # (2, b), used again while b stays the same

    @staticmethod
    def on_device(x: Tensor, y: Tensor) -> Tensor:
        """(2, b), where x and y are, in double precision, where squares have a wider range."""
        return torch.stack([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in (x, y)])

    @classmethod
    def exactly(cls, x: Tensor, y: Tensor) -> np.ndarray:
        """`of`, where that may have lost digits."""
        return cls.on_device(x, y).cpu().numpy()

    def of(self, x: Tensor, y: Tensor) -> np.ndarray:
        """(2, b), in double precision."""
        if self.found is None or len(x) != self.found.shape[1]:
            self.found = torch.empty(2, len(x), dtype=accumulation_dtype(x), device=x.device)
            self.rows, self.on_host = self.found.unbind(), host_view(self.found)
        for row, part in zip(self.rows, (x, y), strict=True):
            torch.linalg.vector_norm(part, dim=1, dtype=row.dtype, out=row)
        return (self.found.cpu().numpy() if self.on_host is None else self.on_host).astype(np.float64)


class Tracker:
    """Norms, traces and best iterates of one solve, over flattened states (B, N); its `StopRule` says when to stop.

    What stops is a unit: the whole batch, or each sequence on its own; U is their number. The only host
    synchronisation of a step is that of `Norms`: two per sequence come over in one transfer. Index tensors go the other
    way only while the device has nothing to do, right after it.

    The whole batch may be divided: then all who hold a part of it make as many calls, and what is decided on its norms
    is decided alike everywhere.

    Args:
        z0: the start (B, N).
        positions: L, positions in a sequence.
        eps: residual below which a unit has converged.
        stop_mode: "rel" or "abs".
        stop_scope: "batch" or "sequence".
        first_candidate: index of the first iterate that may be returned (the start is, where all others are worse); the
            stop rules apply from it on, and growth over its residual is divergence.
        batch_sum: adds up over the parts of a divided batch, None for an undivided one; called once by each `record`
            and by `result`, with the scope "sequence" never.
        returns: "lowest" for the candidate of lowest residual, "last" for the last one that is finite.

    Raises:
        ValueError: an unknown stop mode or scope.
    """

    def __init__(
        self,
        z0: Tensor,
        *,
        positions: int,
        eps: float,
        stop_mode: str,
        stop_scope: str,
        first_candidate: int,
        batch_sum: BatchSum | None = None,
        returns: str = "lowest",
    ):
        check_choice("stop_scope", stop_scope, STOP_SCOPES)
        self.stop_scope = stop_scope
        self.per_sequence = stop_scope == "sequence"
        self.rule = StopRule(
            len(z0) if self.per_sequence else 1,
            eps=eps,
            stop_mode=stop_mode,
            first_candidate=first_candidate,
            positions=positions,
            precision=torch.finfo(z0.dtype).eps,
            returns=returns,
        )
        self.batch_sum = None if self.per_sequence else batch_sum
        self.start = self.best = z0
        self.start_norms = self.best_norms = np.full((2, len(z0)), math.inf)
        self.row_norms: list[np.ndarray] = []  # (2, B) of each evaluation
        self.whole_norms: list[np.ndarray] = []  # (2, 1), of the batch
        self.n_low_evals = 0  # evaluations in low precision, which come first

    @property
    def n_evals(self) -> int:
        """Evaluations of f so far."""
        return len(self.row_norms)

    def is_open(self, rows: np.ndarray) -> np.ndarray:
        """Which of these sequences are still being solved for, (b,) bool."""
        is_open = self.rule.reason == OPEN
        return is_open[rows] if self.per_sequence else np.repeat(is_open, len(rows))

    @np.errstate(invalid="ignore", over="ignore")
    def record(self, rows: np.ndarray, z: Tensor, found: np.ndarray, *, exact: bool = True) -> bool:
        """Takes in z (b, N) of the sequences `rows` (b,), in rising order, and the norms (2, b) of its g and f(z).

        Norms that are not exact, as f was evaluated in low precision, decide nothing.

        Returns whether no unit is left to solve.
        """
        if self.per_sequence:
            is_open = self.is_open(rows)
            norms = self.best_norms.copy()  # a finished sequence stays at what it is returned with
            norms[:, rows[is_open]] = found[:, is_open]
        else:
            norms = found
        if not self.row_norms:
            self.start_norms = self.best_norms = norms
        self.row_norms.append(norms)
        whole = self._over_the_batch(norms)
        self.whole_norms.append(whole)
        if not exact:
            self.n_low_evals += 1
            self.rule.pass_over(norms if self.per_sequence else whole)
            return False
        improved = self.rule.judge(norms if self.per_sequence else whole)
        if np.count_nonzero(improved):
            self._keep(rows, z, norms, improved)
        return self.rule.n_open == 0

    def _over_the_batch(self, norms: np.ndarray) -> np.ndarray:
        """Norms (2, B) of sequences to those of the batch, (2, 1)."""
        squares = np.square(norms).sum(axis=1)
        if self.batch_sum is not None:
            squares = self.batch_sum(squares)
        elif squares[1] < SMALL_SQUARE and (largest := norms.max(initial=0)) > 0:  # others may have vanished
            return largest * np.sqrt(np.square(norms / largest).sum(axis=1))[:, None]
        return np.sqrt(squares)[:, None]

    def _keep(self, rows: np.ndarray, z: Tensor, norms: np.ndarray, improved: np.ndarray) -> None:
        """Holds on to the iterates and norms of the units that are at their lowest."""
        if np.count_nonzero(improved) == improved.size:
            self.best, self.best_norms = z, norms
            return
        self.best_norms = np.where(improved, norms, self.best_norms)
        source = torch.from_numpy(np.flatnonzero(improved[rows])).to(z.device)
        target = torch.from_numpy(np.flatnonzero(improved)).to(z.device)
        self.best = self.best.index_copy(0, target, z[source])

    def whole(self, rows: np.ndarray, z: Tensor) -> Tensor:
        """The iterates (B, N) of all sequences, with those that have finished as they are returned."""
        if not self.per_sequence:
            return z
        is_open = self.is_open(rows)
        source = torch.from_numpy(np.flatnonzero(is_open)).to(z.device)
        return self.best.index_copy(0, torch.from_numpy(rows[is_open]).to(z.device), z[source])

    def residual(self) -> float:
        """The whole batch's residual in the stop mode, of the last iterate."""
        return float(self.rule.residual_of(self.whole_norms[-1])[0])

    def _fall_back_to_the_start(self) -> None:
        """Returns no unit with something worse than it began with."""
        if not self.row_norms or self.rule.returns == "last":
            return
        worse = self.rule.residuals[0] < self.rule.lowest
        self.rule.best_step[worse] = 0
        if worse.any():
            self._keep(np.arange(len(self.start)), self.start, self.start_norms, worse)

    def result(self, *, sequence_traces: bool = False) -> SolverResult:
        """The best iterates (B, N) and the report."""
        self._fall_back_to_the_start()
        rule, n_rows = self.rule, len(self.best)
        ended = rule.ended()
        with np.errstate(invalid="ignore", over="ignore"):
            whole = self._over_the_batch(self.best_norms)
            trace = np.concatenate(self.whole_norms, axis=1) if self.whole_norms else np.empty((2, 0))
            rows = rule.residual_of(np.stack(self.row_norms, axis=1)) if sequence_traces and self.row_norms else None
            report = SolveReport(
                termination=REASONS[ended.max(initial=0)],
                n_steps=max(self.n_evals - 1, 0),
                n_evals=self.n_evals,
                n_low_evals=self.n_low_evals,
                best_step=int(rule.best_step.max(initial=0)),
                stop_mode=rule.stop_mode,
                stop_scope=self.stop_scope,
                eps=rule.eps,
                abs_residual=_finite_or_inf(whole[0])[0],
                rel_residual=_finite_or_inf(relative(whole))[0],
                abs_trace=tuple(trace[0].tolist()),
                rel_trace=tuple(relative(trace).tolist()),
                sequence_residuals=_finite_or_inf(rule.residual_of(self.best_norms)),
                sequence_steps=tuple(np.broadcast_to(rule.best_step, n_rows).tolist()),
                sequence_terminations=tuple(REASONS[reason] for reason in np.broadcast_to(ended, n_rows)),
                sequence_traces=() if rows is None else tuple(tuple(row) for row in rows.T.tolist()),
            )
        return SolverResult(self.best, report)


def _finite_or_inf(residuals: np.ndarray) -> tuple[float, ...]:
    return tuple(np.where(np.isfinite(residuals), residuals, math.inf).tolist())
