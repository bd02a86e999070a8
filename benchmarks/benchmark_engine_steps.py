"""What a step of each solver costs beside torchdeq's, on a map that costs next to nothing itself.

The map is f(z) = a z + x with a in 0 … 0.9, one operation. Every solve takes all its steps (eps 0, relative residuals),
without gradients and in one thread; ours and theirs are timed in turn, and what is printed are medians. Beside the
solvers stand the plain applications of both libraries, which look at no residual on the way.

    pip install --no-deps -r benchmarks/requirements.txt
    PYTHONPATH=DEQModel python benchmarks/benchmark_engine_steps.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from measuring import count, median_seconds_in_turn
from peer import MISSING
from peer import get_solver as torchdeq_solver
from torch import Tensor

from modules.iterate import iterate
from modules.solvers import SOLVERS

STEPS = 30
ENTRIES = (64, 256, 1024, 4096)
ROWS = (1, 32)
THEIR_NAMES = {"broyden": "broyden", "anderson": "anderson", "fixed_point": "fixed_point_iter"}
PLAIN = "plain applications"
LARGE_BARS = {"broyden": 0.5, "anderson": 0.9, "fixed_point": 0.9}  # at LARGE
LARGE = (1024, 32)  # entries at least, rows

Map = Callable[..., Tensor]


@dataclass(frozen=True)
class Found:
    """Microseconds a step of one solver at one size, ours and torchdeq's."""

    name: str
    n_state: int
    n_batch: int
    here: float
    torchdeq: float

    @property
    def ratio(self) -> float:
        return self.here / self.torchdeq

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.name}, N {self.n_state}, B {self.n_batch})"


def cheap_map(n_batch: int, n_state: int) -> tuple[Map, Tensor]:
    """a z + x and its start (B, N)."""
    torch.manual_seed(0)
    a, x = 0.9 * torch.rand(n_batch, n_state), torch.randn(n_batch, n_state)

    def f(z: Tensor, tau: float = 1.0) -> Tensor:  # torchdeq's plain applications leave the damping to f
        return torch.addcmul(x, a, z)

    return f, torch.zeros(n_batch, n_state)


def solves(f: Map, start: Tensor) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """By name a solve of STEPS steps, ours and torchdeq's."""
    pairs = {}
    for name, their_name in THEIR_NAMES.items():
        ours = partial(SOLVERS[name](), f, start, threshold=STEPS, eps=0.0, stop_mode="rel")
        theirs = partial(torchdeq_solver(their_name), f, start, max_iter=STEPS, tol=0.0, stop_mode="rel")
        pairs[name] = (ours, theirs)
    plain = partial(torchdeq_solver("simple_fixed_point_iter"), f, start, max_iter=STEPS)
    pairs[PLAIN] = (partial(iterate, f, start, steps=STEPS), plain)
    return pairs


def evaluations() -> dict[str, tuple[int, int]]:
    """How often f is evaluated in a solve, ours and torchdeq's."""
    f, start = cheap_map(1, ENTRIES[0])
    calls = 0

    def counted(z: Tensor, tau: float = 1.0) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z)

    found = {}
    for name, pair in solves(counted, start).items():
        counts = []
        for solve in pair:
            calls = 0
            solve()
            counts.append(calls)
        found[name] = tuple(counts)
    return found


def measured(n_batch: int, n_state: int, repeats: int, calls: int) -> tuple[float, list[Found]]:
    """Microseconds of f alone, and of a step of every pair."""
    f, start = cheap_map(n_batch, n_state)

    def alone() -> None:
        for _ in range(STEPS):
            f(start)

    timed: dict[str, Callable[[], object]] = {"f": alone}
    pairs = solves(f, start)
    for name, (ours, theirs) in pairs.items():
        timed |= {f"{name}, here": ours, f"{name}, torchdeq": theirs}
    medians = median_seconds_in_turn(timed, repeats, calls)
    a_step = {name: 1e6 * seconds / STEPS for name, seconds in medians.items()}
    found = [Found(name, n_state, n_batch, a_step[f"{name}, here"], a_step[f"{name}, torchdeq"]) for name in pairs]
    return a_step["f"], found


def print_bars(found: Iterable[Found]) -> None:
    """Whether each bar is met, with the worst case."""
    of_solvers = [one for one in found if one.name != PLAIN]
    worst = max(of_solvers, key=lambda one: one.ratio)
    print(f"\nnowhere above 1.0: {'met' if worst.ratio <= 1 else 'not met'}, worst {worst}")
    large = [one for one in of_solvers if one.n_state >= LARGE[0] and one.n_batch == LARGE[1]]
    worst_of = [max((one for one in large if one.name == name), key=lambda one: one.ratio) for name in LARGE_BARS]
    met = all(one.ratio <= LARGE_BARS[one.name] for one in worst_of)
    asked = ", ".join(f"{name} at most {bar}" for name, bar in LARGE_BARS.items())
    print(f"at N >= {LARGE[0]}, B = {LARGE[1]}: {asked}: {'met' if met else 'not met'}, ", end="")
    print(f"worst {', '.join(map(str, worst_of))}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=count, default=15, help="to take medians of (default: %(default)s)")
    parser.add_argument(
        "--calls", type=count, default=3, help="solves timed in a row in a repeat (default: %(default)s)"
    )
    args = parser.parse_args()
    if MISSING:
        print(MISSING, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    found: list[Found] = []
    with torch.no_grad():
        counts = ", ".join(f"{name} {ours} / {theirs}" for name, (ours, theirs) in evaluations().items())
        print(f"Microseconds a step, here | torchdeq | ratio; {STEPS} steps, float32, one thread.")
        print(f"Medians of {args.repeats} repeats of {args.calls} solves, all systems in turn.")
        print(f"Evaluations of f in a solve, here / torchdeq: {counts}.\n")
        print(f"{'B':>3s}{'N':>6s}{'f':>7s}  " + "  ".join(f"{name:>22s}" for name in [*THEIR_NAMES, PLAIN]))
        for n_batch in ROWS:
            for n_state in ENTRIES:
                of_f, cells = measured(n_batch, n_state, args.repeats, args.calls)
                found += cells
                columns = "  ".join(f"{one.here:8.1f}{one.torchdeq:8.1f}{one.ratio:6.2f}" for one in cells)
                print(f"{n_batch:3d}{n_state:6d}{of_f:7.1f}  {columns}", flush=True)
    print_bars(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
