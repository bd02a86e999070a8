"""The reversible fixed-point iteration: its backward pass gets the states back by running it the other way.

Shape legend: B sequences; β the damping; x_h the state after h half-steps.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .state import Map

EXACT_DTYPE = torch.float64  # of the states; f sees them in its own
# How far the rounding of EXACT_DTYPE may have grown in a state that comes back, by f's dtype.
GROWTH = {torch.float64: 1e4}
GROWTH_ELSEWHERE = 1e9


class ReversibleIteration:
    """y' = (1 - β) y + β f(z), z' = (1 - β) z + β f(y') from y = z = z0, with the gradient of just that.

    With x_{-1} = x_0 = z0 a step is two half-steps of one recurrence, and each can be undone:

        x_{h+1} = (1 - β) x_{h-1} + β f(x_h),        x_{h-1} = (x_{h+1} - β f(x_h)) / (1 - β)

    The graph is the ordinary one, of which f's own tensors are left out: they are computed again from x_h when the
    backward pass comes there, and the value f(x_h) then leads on to x_{h-1}. So of all states two are kept. The way
    back lets rounding grow by up to 1 / (1 - β) a half-step, where f does not contract. States are therefore in double
    precision, and where even that would not do, two more are kept every `spacing` half-steps.

    Args:
        f: the map; it must still be the same on backward.
        z0: the start (B, *).
        beta: β in (0, 1).
        around: the surroundings of f, which may be entered any number of times.

    Source: the reversible DEQ, arXiv 2509.12917.
    """

    def __init__(self, f: Map, z0: Tensor, *, beta: float, around: AbstractContextManager):
        self.f, self.beta, self.around, self.dtype = f, beta, around, z0.dtype
        start = z0.detach().to(EXACT_DTYPE)
        self.pair = (start, start)  # x_{h-1} and x_h, with their graph
        self.half_steps = 0
        self.way_back = WayBack(self)

    @property
    def spacing(self) -> int:
        """Half-steps after which two states are kept."""
        return max(1, int(math.log(GROWTH.get(self.dtype, GROWTH_ELSEWHERE)) / -math.log1p(-self.beta)))

    @property
    def z(self) -> Tensor:
        """The state (B, *) that has been reached, with its graph, in f's dtype."""
        return self.pair[1].to(self.dtype)

    def evaluate(self) -> Tensor:
        """f(x_h), with a graph that keeps no tensors of f."""
        return self.way_back.evaluation(self.half_steps, self.z)

    def advance(self, fx: Tensor, is_open: Tensor | None) -> None:
        """A half-step, where fx = f(x_h); sequences that are not open (B, 1, …) stay where they are."""
        before, now = self.pair
        mixed = (1 - self.beta) * before + self.beta * fx.to(EXACT_DTYPE)
        following = mixed if is_open is None else torch.where(is_open, mixed, before)
        self.pair = (now, following)
        self.way_back.passed(is_open, (now.detach(), following.detach()))
        self.half_steps += 1


class WayBack:
    """Undoes the half-steps of an iteration, the last one first, as its backward pass asks for them."""

    def __init__(self, iteration: ReversibleIteration):
        self.f, self.beta, self.dtype = iteration.f, iteration.beta, iteration.dtype
        self.around, self.spacing = iteration.around, iteration.spacing
        self.is_open: list[Tensor | None] = []  # of each half-step
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # h -> (x_h, x_{h+1})
        self.h, self.pair = -1, None  # where the way back has come to: (x_h, x_{h+1})
        self.value: Tensor | None = None  # f(x_h), where the backward pass has computed it

    def passed(self, is_open: Tensor | None, pair: tuple[Tensor, Tensor]) -> None:
        """Takes in a half-step h and its (x_h, x_{h+1})."""
        h = len(self.is_open)
        self.is_open.append(is_open)
        if (h - 1) % self.spacing:
            self.kept.pop(h - 1, None)  # it was the last one then
        self.kept[h] = pair

    def evaluation(self, h: int, x: Tensor) -> Tensor:
        """f(x_h), whose graph gets x_h from here when it is to be computed again."""
        first: list[Tensor] = [x]  # given up after the forward pass
        needs_grad = x.requires_grad

        def run() -> Tensor:
            if first:
                return self.f(first.pop())
            argument = self.at(h).to(self.dtype).requires_grad_(needs_grad)
            fx = self.f(argument)
            self.value = fx.detach()
            return fx

        with set_checkpoint_early_stop(False):  # what comes back needs f's value, not its tensors alone
            return checkpoint(run, use_reentrant=False, context_fn=lambda: (self.around, self.around))

    @torch.no_grad()
    def at(self, h: int) -> Tensor:
        """x_h, detached."""
        if self.pair is None or h > self.h:
            self.h = min(kept for kept in self.kept if kept >= h)
            self.pair, self.value = self.kept[self.h], None
        while self.h > h:
            self._undo()
        return self.pair[0].detach().clone()

    def _undo(self) -> None:
        """From (x_h, x_{h+1}) to (x_{h-1}, x_h)."""
        x, following = self.pair
        if self.value is None:
            with self.around:
                self.value = self.f(x.to(self.dtype))
        before = (following - self.beta * self.value.to(EXACT_DTYPE)) / (1 - self.beta)
        is_open = self.is_open[self.h]
        if is_open is not None:
            before = torch.where(is_open, before, following)
        self.h -= 1
        self.pair = self.kept.get(self.h, (before, x))
        self.value = None
