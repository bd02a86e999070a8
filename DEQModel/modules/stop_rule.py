"""When a solve ends: the rule that reads its residuals, for the whole batch or for each sequence on its own."""

from __future__ import annotations

import math

import numpy as np

from .checks import check_choice
from .report import REASONS, Termination

STOP_MODES = ("rel", "abs")
TINY = 5e-324  # the smallest number above 0; added to ‖f(z)‖ below the relative residual: 0 / 0 is 0 there
STAGNATION_WINDOW = 30  # steps over which a residual near eps must still move
STAGNATION_RATIO = 1.3  # its largest over its smallest value in that window
STAGNATION_SLACK = 3.0  # "near eps": below this multiple of it
DIVERGENCE_RATIO = 1e3  # growth over the first candidate's residual, per position, that counts as divergence
RUNAWAY_GROWTH = 2.0  # of ‖f(z)‖, over which ‖g‖ must have fallen …
RUNAWAY_FALL = 0.5  # … below this share of what it was: maps that ran away never came below 0.68, in 130 solves
RUNAWAY_STEADY = 0.9  # share of ‖g‖ down to which an iterate further out is no better
RUNAWAY_NEAR = 10.0  # growth of ‖f(z)‖ since then, up to which a residual may be small as rounding is
RUNAWAY_LIMIT = 100.0  # growth of ‖f(z)‖ after which a unit that runs away is given up
RUNAWAY_FAR = 1e3  # growth of ‖f(z)‖ beyond which a residual may be small because f(z) is large
RUNAWAY_BELOW = 1e-3  # relative residual below which all this is asked where the stop rule reads the absolute one
OPEN = -1  # in place of an index into REASONS: still being solved for


def relative(norms: np.ndarray) -> np.ndarray:
    """‖g‖ / ‖f(z)‖ from norms (2, …) of g and of f(z)."""
    return norms[0] / (norms[1] + TINY)


class StopRule:
    """Judges residuals g = f(z) - z of U units, which are the whole batch or its sequences, one evaluation at a time.

    A unit ends as soon as one of these holds, from the first candidate on:

        converged   the residual is below eps; with the relative one, ‖g‖ / ‖f(z)‖, that is believed only if it is
                    g that fell. A map whose state runs away, as z + tanh(LN(z) W + b), meets the test because f(z)
                    grows. So if ‖f(z)‖ has doubled since some earlier iterate, ‖g‖ must have halved since the last such
                    one. Else the unit goes on, until ‖g‖ is below half of what it was then.
        runaway     it went on like that while ‖f(z)‖ grew a hundredfold, or up to the threshold
        stagnated   it is near eps and has not moved for some time
        diverged    it has grown far beyond the first candidate's
        nonfinite   ‖g‖ or ‖f(z)‖ is no finite number

    A solve that starts where another one ran away sees nothing grow, and cannot tell.

    Args:
        n_units: U.
        eps: residual below which a unit has converged.
        stop_mode: "rel" or "abs".
        first_candidate: index of the first iterate that may be returned.
        positions: L, positions in a sequence: a longer one may grow more before it counts as diverged.
        returns: "lowest" for the candidate of lowest residual, "last" for the last one that is finite.
        precision: of the states, the relative rounding of their dtype.

    Attributes:
        reason: why each unit ended (U,), an index into REASONS, or OPEN.
        lowest, best_step: the residual of the candidate that is returned, and that iterate's index.
        norms, residuals: ‖g‖ and ‖f(z)‖ (2, U), and the residual that the rule reads (U,), of each evaluation.

    Raises:
        ValueError: an unknown stop mode.
    """

    def __init__(
        self,
        n_units: int,
        *,
        eps: float,
        stop_mode: str,
        first_candidate: int,
        positions: int,
        precision: float,
        returns: str = "lowest",
    ):
        check_choice("stop_mode", stop_mode, STOP_MODES)
        self.returns = returns
        self.eps, self.stop_mode, self.first_candidate = eps, stop_mode, first_candidate
        self.divergence_ratio, self.precision = DIVERGENCE_RATIO * positions, precision
        self.reason = np.full(n_units, OPEN)
        self.n_open = n_units
        self.lowest = np.full(n_units, math.inf)
        self.best_step = np.zeros(n_units, dtype=int)
        self.n_judged = 0
        self.norms = np.empty((16, 2, n_units))  # with room for more
        self.residuals = np.empty((16, n_units))
        self.largest = np.zeros(n_units)  # ‖f(z)‖ so far
        self.runaway = np.full((2, n_units), math.inf)  # ‖g‖ and ‖f(z)‖ when units were first seen to run away

    def judge(self, norms: np.ndarray) -> np.ndarray:
        """Takes in the norms (2, U) of the next iterate; which units (U,) are at their lowest so far."""
        step = self.n_judged
        residual = self._note(norms)
        all_finite = math.isfinite(norms.sum())
        finite = True if all_finite else np.isfinite(norms).all(axis=0)
        is_open = self.reason == OPEN
        if step < self.first_candidate:
            improved = np.zeros_like(is_open)
        else:
            lowest = residual < self.lowest
            below = residual < self.eps
            suspects = below if self.stop_mode == "rel" else self._suspects(norms, residual)
            if np.count_nonzero(below) or np.count_nonzero(suspects):
                seen = self.runaway[0].copy()
                running = self._running_away(norms, suspects & is_open)
                lowest &= ~(running & (norms[0] >= RUNAWAY_STEADY * seen) & np.isfinite(seen))  # it only went further
                self._apply(Termination.CONVERGED, below & ~running)
                self._apply(Termination.RUNAWAY, running & (norms[1] > RUNAWAY_LIMIT * self.runaway[1]))
            improved = is_open & finite & (lowest | (self.returns == "last"))
            self.lowest = np.where(improved, residual, self.lowest)
            self.best_step[improved] = step
            if self.n_judged - self.first_candidate > STAGNATION_WINDOW:
                self._apply(Termination.STAGNATED, self._stagnated(norms, residual))
            self._apply(Termination.DIVERGED, residual > self.residuals[self.first_candidate] * self.divergence_ratio)
        self.largest = np.fmax(self.largest, norms[1])
        if not all_finite:
            self._end(Termination.NONFINITE, is_open & ~finite)
        return improved

    def pass_over(self, norms: np.ndarray) -> None:
        """Takes in the norms (2, U) of an iterate at which f is not known exactly: it is no candidate."""
        self._note(norms)
        self.first_candidate = max(self.first_candidate, self.n_judged)
        self.largest = np.fmax(self.largest, np.where(np.isfinite(norms[1]), norms[1], 0))

    def _note(self, norms: np.ndarray) -> np.ndarray:
        """The residual (U,) that the rule reads, noted with the norms."""
        step, residual = self.n_judged, self.residual_of(norms)
        if step == len(self.norms):
            self.norms, self.residuals = np.tile(self.norms, (2, 1, 1)), np.tile(self.residuals, (2, 1))
        self.norms[step], self.residuals[step] = norms, residual
        self.n_judged += 1
        return residual

    def residual_of(self, norms: np.ndarray) -> np.ndarray:
        """Norms (2, …) to the residual that the rule reads."""
        return relative(norms) if self.stop_mode == "rel" else norms[0]

    def ended(self) -> np.ndarray:
        """Why each unit has ended (U,), if it is now that the threshold is reached."""
        ran_away = np.isfinite(self.runaway[0])
        at_threshold = np.where(ran_away, REASONS.index(Termination.RUNAWAY), REASONS.index(Termination.MAX_STEPS))
        return np.where(self.reason == OPEN, at_threshold, self.reason)

    def _apply(self, reason: Termination, met: np.ndarray) -> None:
        """Ends the open units that meet a rule; the first one that is met counts."""
        if np.count_nonzero(met):
            self._end(reason, met & (self.reason == OPEN))

    def _end(self, reason: Termination, units: np.ndarray) -> None:
        self.reason[units] = REASONS.index(reason)
        self.n_open = np.count_nonzero(self.reason == OPEN)

    def _suspects(self, norms: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """Which units may have run away, where the rule reads the absolute residual; not those that are near eps."""
        near = (residual >= self.eps) & (residual < STAGNATION_SLACK * self.eps)
        return (relative(norms) < RUNAWAY_BELOW) & ~near

    def _running_away(self, norms: np.ndarray, suspects: np.ndarray) -> np.ndarray:
        """Which of the suspected units look converged because ‖f(z)‖ grew, and not because ‖g‖ fell."""
        running = np.zeros_like(suspects)
        if len(units := np.flatnonzero(suspects)):
            own, seen = norms[:, units], self.runaway[:, units]
            known = np.isfinite(seen[0])
            before = np.where(known, seen, self._before_growth(norms, units))
            grew = self._only_grew(own, before, far=known & (own[1] > RUNAWAY_NEAR * seen[1]))
            first = np.stack([np.minimum(before[0], own[0]), own[1]])
            self.runaway[:, units] = np.where(grew, np.where(known, seen, first), math.inf)
            running[units] = grew
        return running

    def _before_growth(self, norms: np.ndarray, units: np.ndarray) -> np.ndarray:
        """‖g‖ and ‖f(z)‖ (2, u) of the last iterate before ‖f(z)‖ grew by RUNAWAY_GROWTH to what it is.

        Infinite where it has not grown, or has come back by as much from a larger one.
        """
        found = np.full((2, len(units)), math.inf)
        for place, unit in enumerate(units):
            now, trace = norms[1, unit], self.norms[: self.n_judged - 1, :, unit]
            if self.largest[unit] <= RUNAWAY_GROWTH * now:
                earlier = np.flatnonzero(trace[:, 1] * RUNAWAY_GROWTH <= now)
                found[:, place] = trace[earlier[-1]] if len(earlier) else math.inf
        return found

    def _only_grew(self, norms: np.ndarray, before: np.ndarray, far: np.ndarray | bool = False) -> np.ndarray:
        """Whether ‖g‖ has not fallen from what it was before ‖f(z)‖ grew, both (2, u), as far as rounding can tell.

        A residual far below rounding is an equilibrium, unless the state has gone so far that the one before could not
        be seen there.
        """
        g, image = norms
        rounding = self.precision * image
        exact = (g <= rounding / 4) & (rounding <= before[0]) & (image <= RUNAWAY_FAR * before[1]) & ~np.asarray(far)
        return ~exact & (np.maximum(g, rounding) >= RUNAWAY_FALL * before[0])

    def _stagnated(self, norms: np.ndarray, residual: np.ndarray) -> np.ndarray:
        near = residual < STAGNATION_SLACK * self.eps
        if not np.count_nonzero(near):
            return near
        window = self.residuals[self.n_judged - STAGNATION_WINDOW : self.n_judged]
        still = near & (self.reason == OPEN) & (window.max(axis=0) < STAGNATION_RATIO * window.min(axis=0))
        units = np.flatnonzero(still & (self.stop_mode == "rel"))
        still[units] = ~self._only_grew(norms[:, units], self._before_growth(norms, units))
        return still
