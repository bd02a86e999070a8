"""The loop that all solvers share: it evaluates f and advances until the tracker has seen enough."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor

from .checks import check_image, check_no_transform
from .iteration import Iteration
from .ladder import Anew, Ladder
from .scaling import RowScale
from .state import Map
from .tracker import Norms, Tracker, by_row

COMPACT_BELOW = 0.9  # share of the sequences that f sees which are still open, below which the others leave

# Is told after every evaluation: the iterate's index, the iterates (B, *) and the batch's residual in the stop mode.
Callback = Callable[[int, Tensor, float], None]


class Loop:
    """One solve of z = f(z).

    Where numbers are so small or large that their products would leave the dtype's range, the iteration sees states
    that are scaled by a power of two, row by row, which rounds nothing. It begins anew when that changes.

    Args:
        f: the map, (B, *) -> (B, *).
        shape: of the state, (B, *).
        tracker: judges the iterates; its start (B, N) is that of the solve.
        begin: makes the iteration from a state (b, N).
        iterates: indices of iterates to keep.
        callback: is told of every evaluation.
        ladder: begins in low precision and says when to leave it, for the last evaluation at the latest; None for
            full precision throughout.
    """

    def __init__(
        self,
        f: Map,
        shape: torch.Size,
        tracker: Tracker,
        begin: Callable[[Tensor], Iteration],
        *,
        iterates: Collection[int] = (),
        callback: Callback | None = None,
        ladder: Ladder | None = None,
    ):
        self.f, self.shape, self.tracker, self.begin = f, shape, tracker, begin
        self.iterates, self.callback = frozenset(iterates), callback
        self.watched = bool(iterates) or callback is not None
        self.kept: dict[int, Tensor] = {}
        self.scale = RowScale(tracker.start.dtype)
        self.ladder = ladder
        self.f_writes: bool | None = None  # into its argument; None before it was first evaluated

    def run(self, max_evals: int) -> Iteration:
        """Goes on until the tracker has seen enough, or for so many evaluations; the iteration at its end."""
        tracker, scale, z = self.tracker, self.scale, self.tracker.start
        iteration, rows, norms = self.begin(z), np.arange(len(z)), Norms()
        plain = torch.autocast(z.device.type, enabled=False)  # f alone runs in low precision
        for k in range(max_evals):
            low = self.ladder is not None and not self.ladder.is_left and k < max_evals - 1
            fz = self._evaluate(z, low=low)
            g = fz - z
            found = norms.of(g, fz)
            if scale.doubts(found):
                if scale.adapt(z, fz):
                    z, fz, g = (scale.newest * x for x in (z, fz, g))
                    iteration = self.begin(z)
                found = norms.exactly(g, fz)
            true_z = scale.undone(z)
            done = tracker.record(rows, true_z, scale.norms_undone(found), exact=not low)
            if self.watched:
                self._tell(k, tracker.whole(rows, true_z))
            if done or k == max_evals - 1:
                break
            if self.ladder is not None:
                anew = self.ladder.judge(tracker.whole_norms[-1])
                if not low:
                    self.ladder = None
                if anew is Anew.AT_THE_START:
                    z, self.scale = tracker.start, RowScale(z.dtype)
                    scale, iteration = self.scale, self.begin(z)
                    continue
                if anew is Anew.HERE:
                    iteration = self.begin(z)
            all_open = not tracker.per_sequence or (is_open := tracker.is_open(rows)).all()
            if not all_open:  # before `advance`, which would delay it
                kept = torch.from_numpy(np.flatnonzero(is_open)).to(z.device)
            with plain:
                advanced = iteration.advance(z, fz, g)
            if all_open:
                z = _apart(advanced, fz)
            elif is_open.mean() < COMPACT_BELOW and hasattr(self.f, "select"):
                rows, z, self.f = rows[is_open], advanced[kept], self.f.select(kept)
                iteration.select(kept)
                scale.select(kept, is_open)
            else:
                z = z.index_copy(0, kept, advanced[kept])
        return iteration

    def _evaluate(self, z: Tensor, *, low: bool) -> Tensor:
        """f(z), (b, N), on the scale of z."""
        true_z = self.scale.undone(z)
        shape = (len(z), *self.shape[1:])
        fz = self.ladder.low(true_z.view(shape)) if low else self._in_full(true_z, shape, z)
        if self.tracker.n_evals == 0:
            check_no_transform(fz)
        check_image(fz, shape, z.dtype)
        return self.scale.done(by_row(fz))

    def _in_full(self, true_z: Tensor, shape: tuple[int, ...], z: Tensor) -> Tensor:
        """f of true_z, which may be z itself, as a map that writes into its argument must not see it."""
        first = self.f_writes is None
        argument = true_z.clone() if (self.f_writes or first) and true_z is z else true_z
        version = None if argument.is_inference() else argument._version
        fz = self.f(argument if argument.shape == shape else argument.view(shape))
        if not self.f_writes:
            self.f_writes = version is None or argument._version != version  # or nobody can tell: it gets copies
            if self.f_writes and not first and true_z is z:
                raise ValueError("f began to write into its argument in the middle of a solve: let it work on a copy")
        return fz

    def _tell(self, k: int, z: Tensor) -> None:
        if k in self.iterates:
            self.kept[k] = z.clone().view(self.shape)
        if self.callback is not None:
            self.callback(k, z.view(self.shape), self.tracker.residual())


def _apart(z: Tensor, fz: Tensor) -> Tensor:
    """The iterate in memory of its own: f may use that of its output again."""
    return z.clone() if z.untyped_storage().data_ptr() == fz.untyped_storage().data_ptr() else z
