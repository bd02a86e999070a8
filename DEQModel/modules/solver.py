"""What all solvers are, and the loop that they share.

Shape legend: B sequences in the batch, N entries of one sequence's state (all dimensions but the first, flattened).
Residual g(z) = f(z) - z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .checks import COUNT
from .report import JacobianEstimate, SolverResult
from .state import Map, ScaledMap
from .tracker import BatchSum, Norms, Tracker, by_row, smallest_norm

COMPACT_BELOW = 0.9  # share of the sequences that f sees which are still open, below which the others leave

# Is told after every evaluation: the iterate's index, the iterates (B, *) and the batch's residual in the stop mode.
Callback = Callable[[int, Tensor, float], None]


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

        Returns:
            The candidate of lowest residual (the start only where all others are worse) and the report.

        Raises:
            ValueError: a negative threshold, an unknown stop mode or scope, f(z) that is not like z.
            RuntimeError: inside transforms of `torch.func` and under forward-mode differentiation.
        """
        COUNT.check("threshold", threshold)
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
        loop = _Loop(f, z0.shape, tracker, iterates, callback)
        iteration = self.start(start, threshold)
        loop.run(iteration, self.max_evals(threshold))
        result = tracker.result(sequence_traces=sequence_traces)
        value = loop.as_state(result.value)
        kept = tuple(loop.kept.get(index, value) for index in iterates)
        return SolverResult(value, result.report, iteration.finish(), kept)


class _Loop:
    """Evaluates f and advances until the tracker has seen enough.

    Where values are so small that their squares would leave the dtype's range, the loop works on states that are scaled
    by a power of two, row by row, which rounds nothing.
    """

    def __init__(
        self, f: Map, shape: torch.Size, tracker: Tracker, iterates: Collection[int], callback: Callback | None
    ):
        self.f, self.shape, self.tracker = f, shape, tracker
        self.iterates, self.callback = frozenset(iterates), callback
        self.watched = bool(iterates) or callback is not None
        self.kept: dict[int, Tensor] = {}
        self.scale: Tensor | None = None  # (B, 1), where states are scaled, and as `row_scale` (B,) on the host
        self.small = smallest_norm(tracker.start.dtype)
        self.f_writes = False  # into its argument

    def run(self, iteration: Iteration, max_evals: int) -> None:
        tracker, z = self.tracker, self.tracker.start
        rows, norms = np.arange(len(z)), Norms()
        advance = torch.autocast(z.device.type, enabled=False)(iteration.advance)  # f alone runs in low precision
        for k in range(max_evals):
            fz = self._evaluate(z, k)
            g = fz - z
            found = norms.of(g, fz)
            if k == 0 and found.min(initial=self.small) < self.small and self._scale(fz):
                z, fz, g = (x * self.scale for x in (z, fz, g))
                tracker.start = tracker.best = z
                found = norms.of(g, fz)
            done = tracker.record(rows, z, found if self.scale is None else found / self.row_scale[rows])
            if self.watched:
                self._tell(k, tracker.whole(rows, z))
            if done or k == max_evals - 1:
                break
            if not tracker.per_sequence or (is_open := tracker.is_open(rows)).all():
                z = _apart(advance(z, fz, g), fz)
                continue
            kept = torch.from_numpy(np.flatnonzero(is_open)).to(z.device)  # before `advance`, which would delay it
            advanced = advance(z, fz, g)[kept]
            if is_open.mean() < COMPACT_BELOW and hasattr(self.f, "select"):
                rows, z, self.f = rows[is_open], advanced, self.f.select(kept)
                iteration.select(kept)
            else:
                z = z.index_copy(0, kept, advanced)

    def _evaluate(self, z: Tensor, k: int) -> Tensor:
        """f(z), (b, N)."""
        argument = z.clone() if self.f_writes or k == 0 else z
        version = None if argument.is_inference() else argument._version
        shape = (len(z), *self.shape[1:])
        fz = self.f(argument if argument.shape == shape else argument.view(shape))
        if k == 0:
            check_no_transform(fz)
        check_image(fz, shape, z.dtype)
        if not self.f_writes and (version is None or argument._version != version):
            if k > 0:
                raise ValueError("f began to write into its argument in the middle of a solve: let it work on a copy")
            self.f_writes = True  # or nobody can tell: it gets copies
        return by_row(fz)

    def _scale(self, fz: Tensor) -> bool:
        """Scales f from here on where its first value (B, N) is small; whether it did."""
        largest = fz.double().abs().amax(dim=1).cpu().numpy()  # of a norm, squares may have vanished
        small = (largest > 0) & (largest < self.small)
        if not small.any():
            return False
        exponent = np.floor(np.log2(np.where(small, largest, 1)))
        self.row_scale = np.where(small, np.exp2(-exponent), 1)
        self.scale = torch.from_numpy(self.row_scale[:, None]).to(fz)
        self.f = ScaledMap(self.f, self.scale)
        return True

    def _tell(self, k: int, z: Tensor) -> None:
        if k in self.iterates:
            self.kept[k] = self.as_state(z.clone())
        if self.callback is not None:
            self.callback(k, self.as_state(z), self.tracker.residual())

    def as_state(self, z: Tensor) -> Tensor:
        """(B, N) of the loop as the state (B, *) that it stands for."""
        return (z if self.scale is None else z / self.scale).view(self.shape)


def _apart(z: Tensor, fz: Tensor) -> Tensor:
    """The iterate in memory of its own: f may use that of its output again."""
    return z.clone() if z.untyped_storage().data_ptr() == fz.untyped_storage().data_ptr() else z


def check_image(fz: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuses f(z) that is not like z."""
    if not isinstance(fz, Tensor):
        raise ValueError(f"f gives a {type(fz).__name__}: it must give a tensor like its argument")
    if fz.shape != shape or fz.dtype != dtype:
        raise ValueError(f"f maps {tuple(shape)} {dtype} to {tuple(fz.shape)} {fz.dtype}: both must be the same")


def check_no_transform(*tensors: Tensor) -> None:
    """Refuses derivatives that would fail obscurely or be those of the last step alone."""
    for x in tensors:
        if isinstance(x, Tensor) and torch._C._functorch.is_legacy_batchedtensor(x):
            raise RuntimeError(
                "an equilibrium is solved for one gradient at a time: call jacobian with vectorize=False, or grad "
                "without is_grads_batched"
            )
    dual = any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in tensors)
    if dual or torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "an equilibrium has reverse-mode derivatives only, through torch.autograd: it cannot be solved for inside "
            "torch.func.grad, vjp, jvp or vmap, or under forward-mode differentiation"
        )
