"""What the machine that this runs on can do, measured in some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from costs.machine import Machine

MATRIX = 2048  # rows and columns
ENTRIES = 2**22  # 16 MiB, more than caches hold and about as much as a layer of a large model
CALLS = 1000


def measured_machine(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Machine:
    """The device's rate of float32 products (2048³), its bandwidth where two large tensors are added, and what it takes
    to start an operation on a small one, by a clock in seconds.
    """

    def seconds(step: Callable[[], object], repeats: int = 7) -> float:
        times = []
        for _ in range(repeats + 2):
            start = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(clock() - start)
        return min(times[2:])  # what else the machine does can only slow it

    a, b = torch.randn(2, MATRIX, MATRIX, device=device)
    x, y = torch.randn(2, ENTRIES, device=device)
    small = torch.randn(16, device=device)
    return Machine(
        "this machine",
        flops=2 * MATRIX**3 / seconds(lambda: a @ b),
        bandwidth=3 * x.element_size() * ENTRIES / seconds(lambda: x + y),
        call=seconds(lambda: [small + small for _ in range(CALLS)]) / CALLS,
        waits=device.type == "cpu",
    )
