"""What all solvers are, and the loop that they share.

Shape legend: B sequences in the batch, N entries of one sequence's state (all dimensions but the first, flattened).
Residual g(z) = f(z) - z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .checks import COUNT, check_no_transform
from .iteration import Iteration
from .ladder import Ladder
from .loop import Callback, Loop
from .report import SolverResult
from .state import Map
from .tracker import BatchSum, Tracker, by_row


@dataclass(frozen=True)
class Solver(ABC):
    """A method of solving z = f(z), with its options as fields; calling it solves.

    A solver says how its iteration starts and how many evaluations it takes. The loop here evaluates f, lets a
    `Tracker` judge the residuals, and drops sequences that have finished. It runs without gradients in whatever mode it
    is called: what it returns has no graph. `modules.deq.DEQModule` gives it one.

    Raises:
        ValueError: options out of range.
    """

    counts: ClassVar[str] = "steps"  # what a threshold counts

    @abstractmethod
    def start(self, z0: Tensor, threshold: int) -> Iteration:
        """The iteration from z0 (B, N), with this threshold."""

    def max_evals(self, threshold: int) -> int:
        """Evaluations of f that this threshold allows."""
        return threshold + 1

    def first_candidate(self, threshold: int) -> int:
        """Index of the first iterate that may be returned; the start may be where all others are worse."""
        return 1

    @torch.no_grad()
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
        iterates: Collection[int] = (),
        callback: Callback | None = None,
        sequence_traces: bool = False,
        low: Map | None = None,
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
            iterates: indices of iterates (0 is the start) that are to be returned too.
            callback: is told after every evaluation: the iterate's index, the iterates (B, *), which it must leave as
                they are, and the batch's residual in the stop mode.
            sequence_traces: whether the report has each sequence's residuals of every iterate.
            low: f in low precision, with which the solve begins, see `ladder.Ladder`; with the scope "sequence" too
                the whole batch leaves it at once.

        Returns:
            The candidate of lowest residual (the start only where all others are worse) and the report.

        Raises:
            ValueError: a negative threshold, an unknown stop mode or scope, f(z) that is not like z.
            RuntimeError: inside transforms of `torch.func` and under forward-mode differentiation.
        """
        COUNT.check("threshold", threshold)
        if not isinstance(z0, Tensor):
            raise ValueError(f"`z0` is a {type(z0).__name__}: solvers take one tensor (B, *), `DEQModule` several")
        check_no_transform(z0)
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
        loop = Loop(
            f,
            z0.shape,
            tracker,
            lambda z: self.start(z, threshold),
            iterates=iterates,
            callback=callback,
            ladder=None if low is None else Ladder(low, eps=eps, stop_mode=stop_mode),
        )
        iteration = loop.run(self.max_evals(threshold))
        result = tracker.result(sequence_traces=sequence_traces)
        value = result.value.clone().view(z0.shape)  # f may have kept its argument
        kept = tuple(loop.kept.get(index, value) for index in iterates)
        return SolverResult(value, result.report, iteration.finish(), kept)
