"""A training step on several GPUs, each of which has a share of the batch's rows and all of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from costs.machine import Machine

COUNTS = (1, 2, 4, 8, 16, 32, 64)
HOP = 5e-6  # seconds from one GPU to the next, before the first byte arrives
HOST_SUM = 1e-4  # seconds of a sum of a few numbers over two processes' hosts; the more, the more rounds of it


def counts(n_rows: int) -> list[int]:
    """Numbers of GPUs to show: none has no row to compute."""
    return sorted({min(n, n_rows) for n in COUNTS})


def all_reduce(machine: Machine, n: int, n_bytes: float) -> float:
    """Seconds of a sum of the gradients over n GPUs in a ring: 2 (n - 1) rounds of a part of n each.

    2 (n - 1) / n · bytes / bandwidth + 2 (n - 1) · latency, with the slowest way in the ring (Patarasuk and Yuan,
    J. Parallel Distrib. Comput. 69, 2009).
    """
    if n == 1:
        return 0.0
    bandwidth = machine.link if n <= machine.per_node else machine.network
    return 2 * (n - 1) / n * n_bytes / bandwidth + 2 * (n - 1) * HOP


def agreements(n: int, evaluations: int) -> float:
    """Seconds that the processes take to agree after each evaluation of a solve whether to stop."""
    return evaluations * HOST_SUM * math.ceil(math.log2(n))


@dataclass(frozen=True)
class Share:
    """A training step on n GPUs.

    Attributes:
        n: how many.
        computing: seconds of the one that has most rows.
        communicating: seconds in which none computes.
        memory: bytes of the one that has most rows.
    """

    n: int
    computing: float
    communicating: float
    memory: float

    @property
    def seconds(self) -> float:
        """Of the step; nothing is taken to overlap."""
        return self.computing + self.communicating
