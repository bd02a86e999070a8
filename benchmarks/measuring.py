"""What benchmarks share: median times, and the peak memory of one call, measured in a process of its own."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch

MIB = 2**20


def count(text: str) -> int:
    """A number of repeats, steps or whatever there has to be one of, as a type of argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: pass a whole number of at least 1")
    return number


def device_of(text: str) -> torch.device:
    """cpu or cuda, where there is such, as a type of argparse."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r}: pass cpu or cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no GPU here that PyTorch can use: pass cpu")
    return torch.device(text)


def median_seconds(step: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call, after one that does not count."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def median_seconds_in_turn(steps: Mapping[str, Callable[[], object]], repeats: int, calls: int = 1) -> dict[str, float]:
    """Median wall time of a call of each step, after one that does not count.

    A repeat times `calls` calls of every step, one step after the other, every second repeat in the opposite order: so
    what else the machine is busy with falls on all of them alike.
    """
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats):
        for name in reversed(steps) if repeat % 2 else steps:
            step, start = steps[name], time.perf_counter()
            for _ in range(calls):
                step()
            times[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(of_step) for name, of_step in times.items()}


def kilobytes(field: str) -> int:
    """A figure of this process's memory, such as VmRSS; Linux alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _measure(connection: Connection, build: Callable[..., Callable[[], object]], arguments: tuple) -> None:
    step = build(*arguments)
    step()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = kilobytes("VmRSS")
    step()
    connection.send((kilobytes("VmHWM") - before) * 1024)


def peak_bytes(build: Callable[..., Callable[[], object]], *arguments: object) -> int | None:
    """Most resident memory that `build(*arguments)()` holds on top of what was there before, in bytes; Linux alone.

    The second call counts. Freed blocks go back to the system at once, so that none is counted that is in nobody's use.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, build, arguments))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        child.join()


def in_mib(size: int | None) -> str:
    """Bytes as MiB, or a dash."""
    return "-" if size is None else f"{size / MIB:.0f}"
