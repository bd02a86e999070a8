"""What an iteration with a graph leaves to be told of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .loop import Callback
from .report import SolveReport
from .tracker import Norms, Tracker, by_row


class Trail:
    """What is seen of an iteration that has a graph: the norms of its residuals.

    They are fetched at the end, all at once, unless something depends on them: a stop, or somebody who is told.

    Args:
        z0: the start (B, *).
        callback: see `Solver.__call__`.
        sequence_traces: whether the report has a trace of each sequence.
        stops: whether the iteration ends where the stop rule is met.
        rule: eps, stop mode, first candidate and scope, as of `Tracker`.
    """

    def __init__(
        self, z0: Tensor, *, callback: Callback | None, sequence_traces: bool, stops: bool = False, **rule: Any
    ):
        self.z0, self.callback, self.sequence_traces, self.stops = z0, callback, sequence_traces, stops
        positions = z0.shape[1] if z0.dim() > 2 else 1
        self.tracker = Tracker(by_row(z0), positions=positions, returns="last", **rule)
        self.rows = np.arange(len(z0))
        self.found: list[Tensor] = []

    @torch.no_grad()
    def saw(self, z: Tensor, fz: Tensor) -> bool:
        """Takes in z and f(z); whether no sequence is left to go on with."""
        z, fz = by_row(z.detach()), by_row(fz.detach())
        norms = Norms.on_device(fz - z, fz)
        if not self.stops and self.callback is None:
            self.found.append(norms)
            return False
        done = self.tracker.record(self.rows, z, norms.cpu().numpy())
        if self.callback is not None:
            self.callback(self.tracker.n_evals - 1, z.view(self.z0.shape), self.tracker.residual())
        return done and self.stops

    def is_open(self) -> Tensor | None:
        """Which sequences go on (B, 1, …), None where all do."""
        if not self.stops or not self.tracker.per_sequence or (is_open := self.tracker.is_open(self.rows)).all():
            return None
        return torch.from_numpy(is_open).to(self.z0.device).view(-1, *[1] * (self.z0.dim() - 1))

    def report(self, steps: int, n_evals: int) -> SolveReport:
        """What the iteration came to after so many steps."""
        if self.found:
            for norms in torch.stack(self.found).cpu().numpy():
                self.tracker.record(self.rows, self.tracker.start, norms)
        report = self.tracker.result(sequence_traces=self.sequence_traces).report
        own = (steps,) * len(self.z0)
        if self.stops and self.tracker.per_sequence:  # those that go on have made the last step too
            own = tuple(np.where(self.tracker.is_open(self.rows), steps, report.sequence_steps).tolist())
        counts = {"n_steps": steps, "n_evals": n_evals, "best_step": steps, "sequence_steps": own}
        return dataclasses.replace(report, **counts)
