"""Seconds of a step by the formulas of --cost beside those that are measured, for three sizes of two models.

The machine's rates are measured beside each step, as other work on it changes them; on a CPU with one thread all times
are the processor's, which that disturbs least. Every solve takes all its steps (eps 0); f is not packed in the forward
solve, as the formulas know nothing of layouts. Updates are left out. The size "published" has the widths of the models'
own publications, with a batch and segments that are short.

    PYTHONPATH=DEQModel python benchmarks/benchmark_cost.py --sizes tiny small
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmark_steps import SIZES as EQUILIBRIA
from measuring import count, device_of
from torch import Tensor

from costs.calibration import measured_machine
from costs.step import Part, evaluation_parts, training_parts
from models.cost import Segment
from models.protocol import LanguageModel, Memory, ModelSpec
from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.spec import SPEC as TRANSFORMER_XL
from models.transformers.config import DEQTransformerConfig
from models.transformers.spec import SPEC as DEQ_TRANSFORMER
from modules.cost import Work
from modules.depth import Applications, AsBuilt, Depth
from modules.deq import DEQModule
from utils.cost import zipf_shares

Clock = Callable[[], float]  # in seconds

N_POSITION = 75  # of a segment, and of the memory
BATCH_SIZES = {"tiny": 8, "small": 8, "published": 1}
MODES = ("training", "evaluation")
LINE = "{:17}{:11}{:12}{:>8}{:>8}{:>9}{:>7}{:>13}{:>12}{:>7}"


def _shapes(n_token: int, n_head: int, d_head: int, d_inner: int) -> dict[str, Any]:
    """Those that both models have."""
    d_model = n_head * d_head
    widths = {"n_head": n_head, "d_head": d_head, "d_model": d_model, "d_embed": d_model, "d_inner": d_inner}
    return {"n_token": n_token, "mem_len": N_POSITION, **widths}


SOLVES = DEQModule(solver="broyden", f_thres=25, b_thres=35, f_eps=0.0, b_eps=0.0, prepare="eager")
TINY = _shapes(10_000, 4, 16, 256)
SMALL = {**_shapes(33_278, 8, 32, 2048), "cutoffs": (5_000, 15_000), "div_val": 4}
WIKITEXT_103 = {**_shapes(267_735, 10, 41, 2100), "cutoffs": (20_000, 40_000, 200_000)}
SYSTEMS: dict[str, tuple[ModelSpec, Depth, dict[str, Any]]] = {
    "deq_transformer": (
        DEQ_TRANSFORMER,
        SOLVES,
        {
            "tiny": DEQTransformerConfig(**TINY, dropout=0.05, wnorm=True),
            "small": EQUILIBRIA["small"].config,
            "published": EQUILIBRIA["published"].config,
        },
    ),
    "transformer_xl": (
        TRANSFORMER_XL,
        AsBuilt(),
        {
            "tiny": TransformerXLConfig(**TINY, n_layer=3, dropout=0.1),
            "small": TransformerXLConfig(**SMALL, n_layer=6, dropout=0.1),
            "published": TransformerXLConfig(**WIKITEXT_103, n_layer=16, dropout=0.1),
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """A step of one model."""

    spec: ModelSpec
    config: Any
    depth: Depth
    n_batch: int
    training: bool

    def parts(self) -> list[Part]:
        """What the formulas say."""
        shares = zipf_shares(self.config.n_token, self.config.cutoffs)  # as words are drawn here
        cost = self.spec.cost(self.config, Segment(self.n_batch, N_POSITION, self.training, shares))
        return training_parts(cost, self.depth, Work()) if self.training else evaluation_parts(cost, self.depth)

    def seconds(self, device: torch.device, n_steps: int, clock: Clock) -> float:
        """Median time of a step behind another segment, after one that does not count."""
        torch.manual_seed(0)
        model = self.spec.build(self.config).to(device).train(self.training)
        uniform = torch.rand(3, N_POSITION, self.n_batch)  # frequent words more often than rare ones
        before, *words = (self.config.n_token**uniform).long().clamp_max(self.config.n_token - 1).to(device)
        with torch.no_grad():
            memory = model.hidden(before, None, Applications(1)).memory
        times = []
        for _ in range(n_steps + 1):
            start = clock()
            self._step(model, words, memory)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(clock() - start)
        return statistics.median(times[1:])

    def _step(self, model: LanguageModel, words: list[Tensor], memory: Memory) -> None:
        with torch.set_grad_enabled(self.training):
            loss = model(*words, memory, self.depth).nll.mean()
        if self.training:
            model.zero_grad(set_to_none=True)
            loss.backward()
        loss.item()


def line(name: str, size: str, mode: str, *, n_steps: int, device: torch.device, clock: Clock) -> str:
    """Predicted beside measured."""
    spec, depth, configs = SYSTEMS[name]
    case = Case(spec, configs[size], depth, BATCH_SIZES[size], mode == "training")
    machine = measured_machine(device, clock)
    measured = case.seconds(device, n_steps, clock)
    parts = case.parts()
    predicted = sum(machine.seconds(part.work) for part in parts)
    gflop, gb = (sum(getattr(part.work, what) for part in parts) / 1e9 for what in ("flops", "bytes"))
    figures = (f"{gflop:.1f}", f"{gb:.1f}", f"{machine.flops / 1e9:.0f}", f"{machine.bandwidth / 1e9:.1f}")
    return LINE.format(name, size, mode, *figures, f"{predicted:.3f}", f"{measured:.3f}", f"{predicted / measured:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=tuple(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", choices=BATCH_SIZES, default=tuple(BATCH_SIZES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--steps", type=count, default=5, help="steps to take the median of (default: %(default)s)")
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu or cuda (default: %(default)s)")
    args = parser.parse_args()
    clock = time.process_time if args.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    print(LINE.format("", "", "", "GFLOP", "GB", "GFLOP/s", "GB/s", "predicted s", "measured s", "ratio"))
    for size in args.sizes:
        for name in args.systems:
            for mode in args.modes:
                print(line(name, size, mode, n_steps=args.steps, device=args.device, clock=clock), flush=True)


if __name__ == "__main__":
    main()
