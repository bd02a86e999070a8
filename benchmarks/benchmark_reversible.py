"""The reversible gradient: its error against ordinary autograd, and what it costs in memory and time.

The error is that of the gradients for W and x of tanh(z W + x), the larger of the two, each relative in the 2-norm.
It is taken against ordinary autograd through the same iteration: the pair of states in double precision, f in that of
the state. W is orthogonal times its norm; the worst of several random cases is shown. The cost is that of a forward and
a backward pass of a feed-forward map in float32: evaluations of f, milliseconds (median, all systems in turn), and the
peak memory above what was there before, measured in a process of its own.

    PYTHONPATH=DEQModel python benchmarks/benchmark_reversible.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch
from measuring import count, in_mib, median_seconds_in_turn, peak_bytes
from torch import Tensor
from torch.nn.functional import layer_norm

from modules.depth import Applications, Depth
from modules.deq import DEQModule

BARS = {torch.float64: 1e-10, torch.float32: 1e-4}
STEPS = (1, 2, 4, 8, 16, 30)
BETAS = (0.3, 0.5, 0.7, 0.8, 0.9)
NORMS = (0.9, 1.5)  # of W
SHAPES = ((8, 64), (512, 64))  # of states whose gradients are compared
COSTS = (4, 8, 16, 32)  # steps
CELL = (8, 64, 256)  # B, L, D of the state whose passes are timed
INNER = 1024

Map = Callable[[Tensor], Tensor]


def reversible(steps: int, beta: float) -> DEQModule:
    return DEQModule(grad="reversible", rev_beta=beta, f_thres=steps, f_eps=0.0)


# -- error


@dataclass(frozen=True)
class Case:
    """A map of some norm in some dtype and size, and an iteration of it."""

    dtype: torch.dtype
    shape: tuple[int, int]
    norm: float
    beta: float
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"state {self.shape}, |W| {self.norm}, beta {self.beta}, N {self.steps}"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, x and the gradient that arrives at the result; the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(self.seed)
        normal = partial(torch.randn, generator=generator, dtype=torch.float64)
        width = self.shape[1]
        weight = self.norm * torch.linalg.qr(normal(width, width))[0]
        x, grad = 0.3 * normal(*self.shape), normal(*self.shape)
        return weight.to(self.dtype).requires_grad_(), x.to(self.dtype).requires_grad_(), grad.to(self.dtype)

    def error(self) -> float:
        """The larger relative error of the gradients for W and x."""
        weight, x, grad = self.tensors()

        def f(z: Tensor) -> Tensor:
            return torch.tanh(z @ weight + x)

        start = torch.zeros_like(x)
        pairs = zip(
            torch.autograd.grad(reversible(self.steps, self.beta)(f, start)[0], (weight, x), grad),
            torch.autograd.grad(iterated(f, start, self.steps, self.beta), (weight, x), grad),
            strict=True,
        )
        return max(((found - exact).norm() / exact.norm()).item() for found, exact in pairs)


def iterated(f: Map, start: Tensor, steps: int, beta: float) -> Tensor:
    """The iteration with ordinary gradients."""
    y = z = start.double()
    for _ in range(steps):
        y = (1 - beta) * y + beta * f(z.to(start.dtype)).double()
        z = (1 - beta) * z + beta * f(y.to(start.dtype)).double()
    return z.to(start.dtype)


def print_errors(seeds: int) -> None:
    print(f"Largest relative error of a gradient after N steps, of {seeds} cases each.")
    worst: dict[torch.dtype, tuple[float, Case]] = {}
    for dtype, shape, norm in itertools.product(BARS, SHAPES, NORMS):
        print(f"\n{short(dtype)}, state {shape}, |W| {norm}")
        print(f"  {'beta':>4s}" + "".join(f"{f'N {steps}':>10s}" for steps in STEPS))
        for beta in BETAS:
            cells = []
            for steps in STEPS:
                cases = [Case(dtype, shape, norm, beta, steps, seed) for seed in range(seeds)]
                found = max(((case.error(), case) for case in cases), key=itemgetter(0))
                worst[dtype] = max(worst.get(dtype, found), found, key=itemgetter(0))
                cells.append(f"{found[0]:10.1e}")
            print(f"  {beta:4g}" + "".join(cells), flush=True)
    print()
    for dtype, bar in BARS.items():
        error, case = worst[dtype]
        print(f"{short(dtype)}, at most {bar:g}: {'met' if error <= bar else 'not met'}, worst {error:.1e} ({case})")


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- cost

SYSTEMS: dict[str, Callable[[int], Depth]] = {  # of a number of steps n; of 2 n evaluations but for the implicit ones
    "reversible, beta 0.5": lambda n: reversible(n, 0.5),
    "reversible, beta 0.8": lambda n: reversible(n, 0.8),
    "unroll, recomputed": lambda n: DEQModule(grad="unroll", f_thres=2 * n),
    "plain applications": lambda n: Applications(2 * n),
    "implicit, broyden": lambda n: DEQModule(f_thres=n, b_thres=n, f_eps=0.0, b_eps=0.0),
}


class FeedForward:
    """f(z) = layer norm of x + relu(z W1) W2; counts its evaluations."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        width = CELL[-1]
        self.first = (0.7 / width**0.5 * torch.randn(width, INNER)).requires_grad_()
        self.second = (0.7 / INNER**0.5 * torch.randn(INNER, width)).requires_grad_()
        self.x = torch.randn(CELL).requires_grad_()
        self.evaluations = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.evaluations += 1
        return layer_norm(self.x + torch.relu(z @ self.first) @ self.second, CELL[-1:])


def passes(name: str, steps: int) -> Callable[[], tuple[int, int]]:
    """A forward and a backward pass, for `peak_bytes` and the clock; it gives the evaluations of f in each."""
    f, depth = FeedForward(), SYSTEMS[name](steps)
    torch.set_num_threads(1)
    start, grad = torch.zeros(CELL), torch.ones(CELL)

    def step() -> tuple[int, int]:
        before = f.evaluations
        z, _ = depth(f, start)
        between = f.evaluations
        torch.autograd.grad(z, (f.first, f.second, f.x), grad)
        return between - before, f.evaluations - between

    return step


def print_costs(repeats: int) -> None:
    size = torch.Size(CELL).numel() * 4 / 2**20
    print(
        f"\nForward and backward of layer_norm(x + relu(z W1) W2), state {CELL} float32, {size:.1f} MiB, W1 to {INNER}"
    )
    print(f"{'steps':>5s}  {'':22s}{'evaluations f, b':>17s}{'ms':>9s}{'ms / plain':>12s}{'peak MiB':>10s}")
    for steps in COSTS:
        timed = {name: passes(name, steps) for name in SYSTEMS}
        seconds = median_seconds_in_turn(timed, repeats)
        for name, step in timed.items():
            forward, backward = step()
            ratio = seconds[name] / seconds["plain applications"]
            peak = in_mib(peak_bytes(passes, name, steps))
            cells = f"{f'{forward}, {backward}':>17s}{1e3 * seconds[name]:9.0f}{ratio:12.2f}{peak:>10s}"
            print(f"{steps:5d}  {name:22s}{cells}", flush=True)
    print("The implicit gradient's backward solve has a vector-Jacobian product a step, and no evaluation of f.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=count, default=3, help="cases to take the worst of (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=5, help="to take median times of (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=("errors", "costs"), default=("errors", "costs"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "errors" in args.parts:
        print_errors(args.seeds)
    if "costs" in args.parts:
        print_costs(args.repeats)


if __name__ == "__main__":
    main()
