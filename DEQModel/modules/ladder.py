"""A ladder of precisions: a solve runs its map in bfloat16 down to that precision's noise, and then in its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from .checks import check_choice
from .state import Map, Wrapper

PRECISIONS = ("off", "bf16")
LOW = torch.bfloat16
NOISE = torch.finfo(LOW).eps  # 2⁻⁷, the spacing of its numbers near 1
STALL_WINDOW = 6  # evaluations in low precision within which the residual must come to a new low
LOST = 10.0  # growth of ‖g‖, over the start's or over what low precision made of it, that shows it to be wrong


@dataclass(frozen=True)
class LowMap(Wrapper):
    """f, a map in bfloat16, from states and to values in their own dtype."""

    def __call__(self, z: Tensor) -> Tensor:
        return self.f(z.to(LOW)).to(z.dtype)


@dataclass(frozen=True)
class AutocastMap(Wrapper):
    """f with products that autocast computes in bfloat16, from states and to values in their own dtype."""

    def __call__(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, dtype=LOW):
            return self.f(z.clone()).to(z.dtype)  # f may write into its argument


def unprepared(f: Map, z: Tensor) -> Map:
    """f itself."""
    return f


@torch.no_grad()
def lowered(f: Map, z0: Tensor, amp: str, prepared: Callable[[Map, Tensor], Map] = unprepared) -> Map | None:
    """f in bfloat16 for states like z0; None where there is to be none, or they are not in single precision.

    Args:
        f: the map. A method `cast(dtype)` gives the same map in another dtype, its weights cast once; what has none is
            evaluated under autocast.
        z0: a state, which shows the dtype.
        amp: one of PRECISIONS.
        prepared: gives a form of the cast map that is faster on states like its second argument.

    Raises:
        ValueError: another name than those.
    """
    check_choice("amp", amp, PRECISIONS)
    if amp == "off" or z0.dtype != torch.float32:
        return None
    return LowMap(prepared(f.cast(LOW), z0)) if hasattr(f, "cast") else AutocastMap(f)


class Anew(Enum):
    """Where a solver is to begin anew, with nothing of what it has gathered."""

    AT_THE_START = "low precision led away from any equilibrium"
    HERE = "low precision led to where f is not what it seemed to be"


class Ladder:
    """Says of a solve that begins in low precision when to leave it, from the norms of the whole batch.

    In low precision f(z) is off by about ε ‖f(z)‖, ε = NOISE, and so is the residual: below that its fall means
    nothing. The ladder is left once

        the residual is below ε, relative to ‖f(z)‖, or below the one at which the solve has converged;
        it stalls: some evaluations in a row gave nothing lower, as where f amplifies the noise;
        it is lost: not finite, or far above the start's. The solve then begins anew.

    What was found in low precision is never returned and never ends a solve: from there on f is evaluated in full
    precision, and the solver goes on with what it has gathered; unless the first such evaluation shows that f is not
    what it seemed to be.

    Args:
        low: f in low precision.
        eps: residual at which the solve has converged.
        stop_mode: "rel" or "abs", what eps refers to.

    Attributes:
        is_left: whether f is evaluated in full precision by now.
    """

    def __init__(self, low: Map, *, eps: float, stop_mode: str):
        self.low, self.eps, self.stop_mode = low, eps, stop_mode
        self.residuals: list[float] = []  # ‖g‖ of the whole batch
        self.is_left = False

    def judge(self, norms: np.ndarray) -> Anew | None:
        """Takes in ‖g‖ and ‖f(z)‖ (2, 1) of every evaluation up to the first one in full precision.

        Leaves low precision when it is time to; whether the solver is to begin anew.
        """
        g, image = norms[:, 0].tolist()
        self.residuals.append(g)
        if self.is_left:
            return Anew.HERE if g > LOST * max([NOISE * image, *self.residuals[-2:-1]]) else None
        lost = not g + image < np.inf or g > LOST * self.residuals[0]
        goal = max(NOISE * image, self.eps * image if self.stop_mode == "rel" else self.eps)
        self.is_left = lost or g < goal or self._stalls()
        return Anew.AT_THE_START if lost else None

    def _stalls(self) -> bool:
        before, recent = self.residuals[:-STALL_WINDOW], self.residuals[-STALL_WINDOW:]
        return bool(before) and min(recent) >= min(before)
