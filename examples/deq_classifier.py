"""A DEQ on data made in code, beside the same weight-tied cell unrolled to a fixed depth.

The task needs depth: a corridor of places, some of them walls, one of them the source; which places does water from
the source reach? The cell f sees direct neighbours alone, so each application carries the answer one place further.
The equilibrium of f is its answer after as many applications as it takes.

    PYTHONPATH=DEQModel python examples/deq_classifier.py

Printed for both: accuracy on corridors that were not trained on, over all places and over those further from the source
than the unrolled model is deep; the time of a training step; the memory that a training step keeps for its backward
pass. For the DEQ: steps and residuals of the solves. And how that memory grows with the depth.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.depth import Applications, Depth
from modules.deq import DEQModule
from modules.report import SolveInfo

WALLS = 0.08  # share of the places
GAIN = 3.0  # bound on ‖W‖∞ of the cell
DEPTHS = (5, 10, 20, 40, 80)  # at which memory is compared
N_TEST = 500  # corridors


@dataclass(frozen=True)
class Corridors:
    """n corridors of N places."""

    x: Tensor  # (n, 2, N): wall, source; each 0 or 1
    label: Tensor  # (n, N): 1 where the water arrives
    distance: Tensor  # (n, N): places between here and the source


def corridors(n: int, length: int, generator: torch.Generator) -> Corridors:
    """Random walls, and a source in the open."""
    source = torch.randint(length, (n, 1), generator=generator)
    wall = torch.rand(n, length, generator=generator) < WALLS
    wall.scatter_(1, source, False)
    room = wall.cumsum(dim=1)  # places between the same two walls have the same number
    label = (room == room.gather(1, source)) & ~wall
    at_source = torch.zeros(n, length).scatter_(1, source, 1.0)
    distance = (torch.arange(length) - source).abs()
    return Corridors(torch.stack([wall.float(), at_source], dim=1), label.float(), distance)


class Cell(nn.Module):
    """f(z; x) = tanh(W ∗ z + U ∗ x + b), convolutions over direct neighbours; states (B, C, N).

    W is held to Σ|w| ≤ GAIN per output channel: small enough for solves that end, large enough (above 1) for a signal
    to travel without fading.
    """

    def __init__(self, n_channel: int):
        super().__init__()
        self.inject = nn.Conv1d(2, n_channel, 3, padding=1)
        self.recur = nn.Conv1d(n_channel, n_channel, 3, padding=1, bias=False)

    def context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All that does not depend on z, once per solve: U ∗ x + b (B, C, N) and W (C, C, 3)."""
        weight = self.recur.weight
        norm = weight.abs().sum(dim=(1, 2), keepdim=True)
        return self.inject(x), weight * (GAIN / norm).clamp_max(1.0)

    def forward(self, z: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        injection, weight = context
        return torch.tanh(F.conv1d(z, weight, padding=1) + injection)


class Classifier(nn.Module):
    """x (B, 2, N) → state (B, C, N) → logits (B, N), and the solves' reports where there are any."""

    def __init__(self, n_channel: int, state: Depth):
        super().__init__()
        self.cell = Cell(n_channel)
        self.out = nn.Conv1d(n_channel, 1, 1)
        self.state = state

    def forward(self, x: Tensor) -> tuple[Tensor, SolveInfo | None]:
        context = self.cell.context(x)
        z, solve = self.state(lambda z: self.cell(z, context), torch.zeros_like(context[0]))
        return self.out(z).squeeze(1), solve


def loss_of(model: Classifier, batch: Corridors) -> tuple[Tensor, SolveInfo | None]:
    logits, solve = model(batch.x)
    return F.binary_cross_entropy_with_logits(logits, batch.label), solve


def train(model: Classifier, args: argparse.Namespace) -> tuple[float, list[SolveInfo]]:
    """Seconds a step (median), and the solves of the last fifth of the steps."""
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.2)
    seconds, solves = [], []
    for _ in range(args.steps):
        batch = corridors(args.batch_size, args.length, generator)
        start = time.perf_counter()
        loss, solve = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # a solve that did not converge can give a large gradient
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        schedule.step()
        solves.append(solve)
    return statistics.median(seconds), solves[-max(1, args.steps // 5) :]


def accuracies(model: Classifier, test: Corridors, beyond: int) -> tuple[float, float]:
    """Over all places, and over those that are further than `beyond` from the source."""
    with torch.no_grad():
        right = (model(test.x)[0] > 0) == (test.label > 0.5)
    return right.float().mean().item(), right[test.distance > beyond].float().mean().item()


def saved_bytes(model: Classifier, batch: Corridors) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters apart, each storage counted once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # held, so that no later tensor gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = loss_of(model, batch)
    del loss
    return sum(storage.nbytes() for storage in kept.values())


def report(direction: str, reports: list) -> str:
    """A line on many solves."""
    steps = statistics.median(solve.n_steps for solve in reports)
    residual = statistics.median(solve.residual for solve in reports)
    open_share = sum(not solve.residual < solve.eps for solve in reports) / len(reports)
    return (
        f"  {direction:9s}{steps:4.0f} steps, residual {residual:.1e}; {open_share:.0%} ended above {reports[0].eps:g}"
    )


def compare_memory(args: argparse.Namespace, batch: Corridors) -> None:
    """Prints what a training step keeps at several depths, with solves that take all their steps."""
    print("\nkB kept for the backward pass, by depth (the DEQ's f_thres, all of it used)")
    print(f"  {'':9s}" + "".join(f"{depth:8d}" for depth in DEPTHS))
    peers: dict[str, Callable[[int], Depth]] = {
        "DEQ": lambda depth: DEQModule(solver=args.solver, f_thres=depth, f_eps=0.0),
        "unrolled": Applications,
    }
    for name, make in peers.items():
        sizes = (saved_bytes(Classifier(args.channels, make(depth)), batch) for depth in DEPTHS)
        print(f"  {name:9s}" + "".join(f"{size / 1e3:8.0f}" for size in sizes))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250, help="training steps (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=5, help="applications, unrolled model (default: %(default)s)")
    parser.add_argument("--solver", default="fixed_point", help="of the DEQ (default: %(default)s)")
    parser.add_argument("--threshold", type=int, default=40, help="steps of a solve (default: %(default)s)")
    parser.add_argument("--length", type=int, default=20, help="places in a corridor (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=16, help="of the state (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="corridors in a step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=0.02, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training data (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    test = corridors(N_TEST, args.length, torch.Generator().manual_seed(args.seed + 1))
    deq = DEQModule(solver=args.solver, f_thres=args.threshold, b_thres=args.threshold)
    print(f"{'':20s}  accuracy  beyond {args.depth} places  ms a step  kB for backward")
    for name, state in ((f"DEQ, {args.solver}", deq), (f"unrolled, depth {args.depth}", Applications(args.depth))):
        torch.manual_seed(args.seed)
        model = Classifier(args.channels, state)
        seconds, solves = train(model, args)
        everywhere, far = accuracies(model, test, args.depth)
        batch = corridors(args.batch_size, args.length, torch.Generator().manual_seed(args.seed + 2))
        kept = saved_bytes(model, batch)
        print(f"{name:20s}  {everywhere:8.1%}  {far:15.1%}  {1e3 * seconds:9.1f}  {kept / 1e3:15.0f}", flush=True)
        if state is deq:
            solved = [(solve.forward, solve.backward) for solve in solves]
    print("\nthe DEQ's solves in the last fifth of training (medians)")
    for direction, reports in zip(("forward", "backward"), zip(*solved, strict=True), strict=True):
        print(report(direction, [solve for solve in reports if solve is not None]))
    compare_memory(args, batch)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only wait for each other where tensors are this small
    main()
