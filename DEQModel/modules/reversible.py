"""The reversible fixed-point iteration: its backward pass gets the states back by running it the other way.

Shape legend: B sequences; β the damping; x_h the state after h half-steps.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .leaves import same, sums_of
from .state import Map
from .tracker import by_row

DOUBLE = torch.float64  # of the states; f sees them in its own dtype
BITS = 51  # of a number on a row's grid


class ReversibleIteration:
    """y' = (1 - β) y + β f(z), z' = (1 - β) z + β f(y') from y = z = z0, with the gradient of just that.

    With x_{-1} = x_0 = z0 a step is two half-steps of one recurrence, and each can be undone:

        x_{h+1} = (1 - β) x_{h-1} + β f(x_h),        x_{h-1} = (x_{h+1} - β f(x_h)) / (1 - β)

    The graph is the ordinary one, of which f's own tensors are left out: they are computed again from x_h when the
    backward pass comes there, and the value f(x_h) then leads on to x_{h-1}. So of all states two are kept.

    Undone in floating point alone, rounding would grow by 1 / (1 - β) a half-step, and with f in single precision
    states would soon come back with other digits. So states lie on a grid, a power of two a row, and what an undone
    half-step is off by, some units of the grid, is kept: half a byte an entry, or one where β is large. What comes back
    is then what was there, to the last bit.

    Args:
        f: the map; it must still be the same on backward, and give the same bits.
        z0: the start (B, *).
        beta: β in (0, 1).
        around: the surroundings of f, which may be entered any number of times.

    Source: the reversible DEQ, arXiv 2509.12917; the kept remainders are the idea of arXiv 1502.03492, section 2.
    """

    def __init__(self, f: Map, z0: Tensor, *, beta: float, around: AbstractContextManager):
        self.dtype, self.beta = z0.dtype, beta
        start = on_grid(z0.detach().to(DOUBLE))
        self.pair = (start.values, start.values)  # x_{h-1} and x_h, with their graph
        self.grids = (start.grid, start.grid)
        self.half_steps = 0
        self.way_back = WayBack(f, z0.dtype, beta, around, start.values)

    @property
    def z(self) -> Tensor:
        """The state (B, *) that has been reached, with its graph, in f's dtype."""
        return self.pair[1].to(self.dtype)

    def evaluate(self) -> Tensor:
        """f(x_h), with a graph that keeps no tensors of f."""
        x = self.pair[1].to(self.dtype, copy=True)  # f may write into it
        return self.way_back.evaluation(self.half_steps, x)

    def advance(self, fx: Tensor, is_open: Tensor | None) -> None:
        """A half-step, where fx = f(x_h); sequences that are not open (B, 1, …) stay where they are."""
        before, now = self.pair
        mixed = (1 - self.beta) * before + self.beta * fx.to(DOUBLE)
        following = mixed if is_open is None else torch.where(is_open, mixed, before)
        rounded = on_grid(following.detach())
        following = following + (rounded.values - following.detach())  # on the grid, with the graph as it was
        step = HalfStep(is_open, self.grids[0], (before.detach(), now.detach(), rounded.values))
        self.way_back.passed(step, fx.detach())
        self.pair, self.grids = (now, following), (self.grids[1], rounded.grid)
        self.half_steps += 1


@dataclass(frozen=True)
class OnGrid:
    """Numbers (B, *) that are multiples of a power of two a row, `grid` (B, 1, …)."""

    values: Tensor
    grid: Tensor


def on_grid(x: Tensor) -> OnGrid:
    """x in double precision, rounded to BITS bits of its row's largest number."""
    largest = by_row(x).abs().amax(dim=1) if x.numel() else x.new_zeros(len(x))
    _, exponent = torch.frexp(largest)
    grid = torch.ldexp(torch.ones_like(largest), exponent - BITS).view(-1, *[1] * (x.dim() - 1))
    return OnGrid(torch.round(x / grid) * grid, grid)


@dataclass
class HalfStep:
    """What is kept to undo one half-step.

    Attributes:
        is_open: which sequences it moved (B, 1, …), None for all.
        grid: that of x_{h-1}, (B, 1, …).
        states: x_{h-1}, x_h and x_{h+1}, until the remainder is known.
        remainder: what x_{h-1} is more than what undoing gives, in units of its grid, packed.
        kept: the pair (x_{h-1}, x_h) instead, where that is too much for a byte.
    """

    is_open: Tensor | None
    grid: Tensor
    states: tuple[Tensor, Tensor, Tensor] | None
    remainder: Tensor | None = None
    kept: tuple[Tensor, Tensor] | None = None

    def undone(self, following: Tensor, fx: Tensor, beta: float) -> Tensor:
        """x_{h-1} on its grid but for the remainder."""
        before = torch.round((following - beta * fx.to(DOUBLE)) / (1 - beta) / self.grid) * self.grid
        return before if self.is_open is None else torch.where(self.is_open, before, following)

    def settle(self, fx: Tensor, beta: float) -> None:
        """Replaces the states by the remainder."""
        before, now, following = self.states
        self.states = None
        remainder = (before - self.undone(following, fx, beta)) / self.grid
        largest = remainder.abs().amax().item() if remainder.numel() else 0.0
        if not largest <= 127:
            self.kept = (before, now)
        elif largest > 0:
            self.remainder = pack(remainder.to(torch.int8), largest)

    def undo(self, now: Tensor, following: Tensor, fx: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """(x_{h-1}, x_h) from x_h, x_{h+1} and f(x_h)."""
        if self.kept is not None:
            return self.kept
        before = self.undone(following, fx, beta)
        if self.remainder is not None:
            before = before + unpack(self.remainder, before.shape).to(DOUBLE) * self.grid
        return before, now


def pack(numbers: Tensor, largest: float) -> Tensor:
    """Small whole numbers, int8, as two to a byte (uint8) where they lie in -7 … 7."""
    if largest > 7:
        return numbers
    flat = numbers.flatten() + 8
    pairs = torch.nn.functional.pad(flat, (0, len(flat) % 2)).view(-1, 2).to(torch.uint8)
    return pairs[:, 0] + 16 * pairs[:, 1]


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """The numbers, int8."""
    if packed.dtype == torch.int8:
        return packed
    pairs = torch.stack([packed % 16, packed // 16], dim=1).to(torch.int8) - 8
    return pairs.flatten()[: shape.numel()].view(shape)


class WayBack:
    """Undoes the half-steps of an iteration, the last one first, as its backward pass asks for them."""

    def __init__(self, f: Map, dtype: torch.dtype, beta: float, around: AbstractContextManager, start: Tensor):
        self.f, self.dtype, self.beta, self.around, self.start = f, dtype, beta, around, sums_of(start)
        device = start.device.type
        self.autocast = partial(
            torch.autocast,
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
        )
        self.steps: list[HalfStep] = []
        self.end: tuple[Tensor, Tensor] | None = None  # x_h and x_{h+1} of the last half-step h
        self.h, self.pair = -1, None  # where the way back has come to: h, and x_h and x_{h+1}
        self.value: Tensor | None = None  # f(x_h), where the backward pass has computed it

    def passed(self, step: HalfStep, fx: Tensor) -> None:
        """Takes in a half-step, and fx = f(x_h)."""
        self.end = step.states[1:]
        step.settle(fx, self.beta)
        self.steps.append(step)

    def evaluation(self, h: int, x: Tensor) -> Tensor:
        """f(x_h), whose graph gets x_h from here when it is to be computed again."""
        first: list[Tensor] = [x]  # given up after the forward pass
        needs_grad = x.requires_grad

        def run() -> Tensor:
            if first:
                return self.f(first.pop())
            fx = self.f(self.at(h).to(self.dtype).requires_grad_(needs_grad))
            self.value = fx.detach()
            return fx

        with set_checkpoint_early_stop(False):  # what comes back needs f's value, not its tensors alone
            return checkpoint(run, use_reentrant=False, context_fn=lambda: (self.around, self.around))

    @torch.no_grad()
    def at(self, h: int) -> Tensor:
        """x_h, detached.

        Raises:
            RuntimeError: f gave other values than in the forward pass.
        """
        if self.pair is None or h > self.h:
            self.h, self.pair, self.value = len(self.steps) - 1, self.end, None
        while self.h > h:
            self._undo()
        if h == 0 and not same(sums_of(self.pair[0]), self.start):
            raise RuntimeError(
                "f gave other values on backward than forward, so that the reversible iteration does not come back to "
                "its start: f must give the same bits (torch.use_deterministic_algorithms), or use another `grad`"
            )
        return self.pair[0].detach().clone()

    def _undo(self) -> None:
        """From (x_h, x_{h+1}) to (x_{h-1}, x_h)."""
        now, following = self.pair
        if self.value is None:
            with self.around, self.autocast():
                self.value = self.f(now.to(self.dtype))
        self.pair = self.steps[self.h].undo(now, following, self.value, self.beta)
        self.h -= 1
        self.value = None
