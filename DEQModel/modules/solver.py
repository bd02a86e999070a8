"""What all solvers are, and the loop that they share.

Shape legend: B sequences in the batch, N entries of one sequence's state (all dimensions but the first, flattened).
Residual g(z) = f(z) - z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from modules.checks import Range
from modules.report import JacobianEstimate, SolverResult
from modules.state import Map
from modules.tracker import BatchSum, Tracker, by_row

COMPACT_BELOW = 0.9  # share of the sequences that f sees which are still open, below which the others leave


class Iteration(ABC):
    """The state of one running solve: proposes iterates, and keeps what it needs of the past, per sequence."""

    @abstractmethod
    def advance(self, z: Tensor, fz: Tensor, g: Tensor) -> Tensor:
        """The next iterate (b, N) after fz = f(z) and g = fz - z."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Goes on with these sequences only."""

    def finish(self) -> JacobianEstimate | None:
        """The estimate of the inverse Jacobian that the solve ended with, where the method makes one."""
        return None


@dataclass(frozen=True)
class Solver(ABC):
    """A method of solving z = f(z), with its options as fields; calling it solves.

    A solver says how its iteration starts and how many evaluations it takes. The loop here evaluates f, lets a
    `Tracker` judge the residuals, and drops sequences that have finished. It runs in whatever grad mode it is called
    in; `modules.deq.DEQModule` calls it without gradients.

    Raises:
        ValueError: options out of range.
    """

    @abstractmethod
    def start(self, z0: Tensor, threshold: int) -> Iteration:
        """The iteration from z0 (B, N), with this threshold."""

    def max_evals(self, threshold: int) -> int:
        """Evaluations of f that this threshold allows."""
        return threshold + 1

    def first_candidate(self, threshold: int) -> int:
        """Index of the first iterate that may be returned; the start may be where all others are worse."""
        return 1

    def __call__(
        self,
        f: Map,
        z0: Tensor,
        *,
        threshold: int,
        eps: float = 1e-3,
        stop_mode: str = "rel",
        stop_scope: str = "batch",
        batch_sum: BatchSum | None = None,
    ) -> SolverResult:
        """Iterates on f from z0 until the stop rule ends it or the threshold is reached.

        Args:
            f: the map, (B, *) -> (B, *). It may use the memory of its output again, and write into its argument. With
                the scope "sequence", finished sequences stay where they stopped; where f
                has a method `select(rows)`, which gives the same map for some of the sequences (rows: a (b,) index
                tensor), they leave the batch that f sees once enough of them have finished.
            z0: the start (B, *); its dtype and device are kept.
            threshold: largest number of updates or of evaluations, as each solver says.
            eps: residual (in the stop mode) below which the solve has converged; with 0 it never has.
            stop_mode: "rel" for ‖g‖ / ‖f(z)‖, "abs" for ‖g‖.
            stop_scope: "batch" stops on the whole batch's residual, "sequence" each sequence on its own.
            batch_sum: where z0 is a part of a batch that several processes divided among themselves, adds up over all
                of them: with the scope "batch" they stop together, on the whole batch's residual. Each must solve at
                the same time, under the same settings, and all get the same bits. None: z0 is the batch.

        Returns:
            The candidate of lowest residual (the start only where all others are worse) and the report.

        Raises:
            ValueError: a negative threshold, an unknown stop mode or scope, f(z) that is not like z.
            RuntimeError: inside transforms of `torch.func` and under forward-mode differentiation.
        """
        Range(least=0).check("threshold", threshold)
        start = by_row(z0).clone()  # z0 is the caller's
        tracker = Tracker(
            start,
            positions=z0.shape[1] if z0.dim() > 2 else 1,
            eps=eps,
            stop_mode=stop_mode,
            stop_scope=stop_scope,
            first_candidate=self.first_candidate(threshold),
            batch_sum=batch_sum,
        )
        iteration = self.start(start, threshold)
        _run(iteration, f, z0, tracker, self.max_evals(threshold))
        result = tracker.result()
        return SolverResult(result.value.view(z0.shape), result.report, iteration.finish())


def _run(iteration: Iteration, f: Map, z0: Tensor, tracker: Tracker, max_evals: int) -> None:
    """Evaluates f and advances until the tracker has seen enough."""
    shape, z = z0.shape, tracker.start
    advance = torch.autocast(z0.device.type, enabled=False)(iteration.advance)  # f alone runs in low precision
    rows, writes = np.arange(len(z0)), False
    for k in range(max_evals):
        argument = z.clone() if writes or k == 0 else z
        version = None if argument.is_inference() else argument._version
        fz = f(argument.view(len(z), *shape[1:]))
        _check_image(fz, (len(z), *shape[1:]), z.dtype)
        fz = by_row(fz)
        if not writes and (version is None or argument._version != version):
            if k > 0:
                raise ValueError("f began to write into its argument in the middle of a solve: let it work on a copy")
            writes = True  # or nobody can tell: it gets copies
        g = fz - z
        if tracker.record(rows, z, fz, g) or k == max_evals - 1:
            break
        if (is_open := tracker.is_open(rows)).all():
            z = _apart(advance(z, fz, g), fz)
            continue
        kept = torch.from_numpy(np.flatnonzero(is_open)).to(z.device)  # before `advance`, which would delay it
        advanced = advance(z, fz, g)[kept]
        if is_open.mean() < COMPACT_BELOW and hasattr(f, "select"):
            rows, z, f = rows[is_open], advanced, f.select(kept)
            iteration.select(kept)
        else:
            z = z.index_copy(0, kept, advanced)


def _apart(z: Tensor, fz: Tensor) -> Tensor:
    """The iterate in memory of its own: f may use that of its output again."""
    return z.clone() if z.untyped_storage().data_ptr() == fz.untyped_storage().data_ptr() else z


def _check_image(fz: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuses f(z) that is not like z, and derivatives that would fail obscurely or be those of the last step alone."""
    if not isinstance(fz, Tensor):
        raise ValueError(f"f gives a {type(fz).__name__}: it must give a tensor like its argument")
    if fz.shape != shape or fz.dtype != dtype:
        raise ValueError(f"f maps {shape} {dtype} to {tuple(fz.shape)} {fz.dtype}: both must be the same")
    if torch._C._are_functorch_transforms_active() or forward_ad.unpack_dual(fz).tangent is not None:
        raise RuntimeError(
            "an equilibrium has reverse-mode derivatives only, through torch.autograd: it cannot be solved for inside "
            "torch.func.grad, vjp, jvp or vmap, or under forward-mode differentiation"
        )
