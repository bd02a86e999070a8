"""Seconds of a step by the formulas of --cost beside those that are measured, for several sizes.

The machine's rates are measured beside each size, as other work on it changes them; on a CPU with one thread all times
are the processor's, which that disturbs least. Every solve takes all its steps (eps 0); f is not packed in the forward
solve, as the formulas know nothing of layouts.

    PYTHONPATH=DEQModel python benchmarks/benchmark_cost.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from benchmark_steps import SIZES, Size, segment

from costs.calibration import measured_machine
from costs.step import Part, evaluation_parts, training_parts
from models.cost import Segment
from models.transformers.config import DEQTransformerConfig
from models.transformers.cost import transformer_cost
from models.transformers.model import DEQTransformerLM
from modules.cost import Work
from modules.deq import DEQModule
from modules.solve_cost import depth_cost
from utils.cost import zipf_shares

Clock = Callable[[], float]  # in seconds

TINY = Size(
    DEQTransformerConfig(
        n_token=10_000,
        n_head=4,
        d_head=16,
        d_model=64,
        d_inner=256,
        d_embed=64,
        dropout=0.05,
        wnorm=True,
        mem_len=75,
    ),
    batch_size=8,
)
MODES = ("training", "evaluation")
LINE = "{:10}{:12}{:>8}{:>8}{:>9}{:>7}{:>13}{:>12}{:>7}"
ALL = {"tiny": TINY, **SIZES}


def predicted_parts(size: Size, deq: DEQModule, *, training: bool) -> list[Part]:
    """The parts of a step, without an update."""
    config = size.config
    shares = zipf_shares(config.n_token, config.cutoffs)  # as `segment` draws them
    cost = transformer_cost(config, Segment(size.batch_size, size.tgt_len, training, shares))
    times = depth_cost(deq, size.batch_size, size.tgt_len * config.d_model, training=training)
    return training_parts(cost, times, Work()) if training else evaluation_parts(cost, times)


def measured_seconds(
    size: Size, deq: DEQModule, *, training: bool, steps: int, device: torch.device, clock: Clock
) -> float:
    """Median time of a step, after one that does not count."""
    torch.manual_seed(0)
    model = DEQTransformerLM(size.config).to(device).train(training)
    tokens, targets, memory = segment(size, device)
    times = []
    for _ in range(steps + 1):
        start = clock()
        with torch.set_grad_enabled(training):
            loss = model(tokens, targets, memory, deq).nll.mean()
        if training:
            model.zero_grad(set_to_none=True)
            loss.backward()
        loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=ALL, default=tuple(ALL))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--steps", type=int, default=5, help="steps to take the median of (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    args = parser.parse_args()
    device = torch.device(args.device)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    deq = DEQModule(solver="broyden", f_thres=25, b_thres=35, f_eps=0.0, b_eps=0.0, prepare="eager")
    print(LINE.format("", "", "GFLOP", "GB", "GFLOP/s", "GB/s", "predicted s", "measured s", "ratio"))
    for name in args.sizes:
        for mode in args.modes:
            training = mode == "training"
            machine = measured_machine(device, clock)
            measured = measured_seconds(ALL[name], deq, training=training, steps=args.steps, device=device, clock=clock)
            parts = predicted_parts(ALL[name], deq, training=training)
            predicted = sum(machine.seconds(part.work) for part in parts)
            gflop, gb = (sum(getattr(part.work, what) for part in parts) / 1e9 for what in ("flops", "bytes"))
            figures = (f"{gflop:.1f}", f"{gb:.1f}", f"{machine.flops / 1e9:.0f}", f"{machine.bandwidth / 1e9:.1f}")
            seconds = (f"{predicted:.3f}", f"{measured:.3f}", f"{predicted / measured:.2f}")
            print(LINE.format(name, mode, *figures, *seconds), flush=True)


if __name__ == "__main__":
    main()
