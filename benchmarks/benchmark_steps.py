"""Time of a training step (forward and backward, no optimizer step) and of an evaluation step.

Every solve takes all its steps (eps 0). Printed: the median time per step, the share of it spent inside f and its
vector-Jacobian products, and the time in units of the machine's own float32 matrix-product rate (2048³, measured in
turn with the steps), so that figures of different machines can be compared.

    PYTHONPATH=DEQModel python benchmarks/benchmark_steps.py --size small
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from unittest import mock

import torch
from measuring import count, device_of
from torch import Tensor

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM, Memory
from modules.deq import DEQModule
from modules.fixed_weights import fixed_weights

MATRIX = 2048


@dataclass(frozen=True)
class Size:
    """A model and the batch that it is timed on; lengths in tokens."""

    config: DEQTransformerConfig
    batch_size: int
    tgt_len: int = 75


def _size(d_model: int, n_head: int, d_inner: int, n_token: int, cutoffs: tuple[int, ...], batch_size: int) -> Size:
    config = DEQTransformerConfig(
        n_token=n_token,
        n_head=n_head,
        d_head=d_model // n_head,
        d_model=d_model,
        d_inner=d_inner,
        d_embed=d_model,
        cutoffs=cutoffs,
        div_val=4,
        dropout=0.05,
        wnorm=True,
        mem_len=75,
    )
    return Size(config, batch_size)


SIZES = {
    "small": _size(256, 8, 2048, 33_278, (5_000, 15_000), batch_size=8),
    "published": _size(700, 10, 48_000, 267_735, (20_000, 40_000, 200_000), batch_size=1),
}


@dataclass
class Stopwatch:
    """Seconds spent in the calls that it wraps."""

    device: torch.device
    total: float = field(default=0.0)

    def around(self, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.total += self.now() - start

        return timed

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def timing_inside_f(model: DEQTransformerLM, watch: Stopwatch) -> Iterator[None]:
    """Times every call of f and every vector-Jacobian product of the backward solve."""
    with (
        mock.patch.object(model.func, "forward", watch.around(model.func.forward)),
        mock.patch.object(torch.autograd, "grad", watch.around(torch.autograd.grad)),
    ):
        yield


def segment(size: Size, device: torch.device) -> tuple[Tensor, Tensor, Memory]:
    """Random tokens and targets, frequent words more often than rare ones, and a full memory."""
    config = size.config
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2, size.tgt_len, size.batch_size, generator=generator)
    tokens, targets = (config.n_token**uniform).long().clamp_max(config.n_token - 1).to(device)
    shape = (size.batch_size, config.mem_len)
    z = torch.randn(*shape, config.d_model, generator=generator).to(device)
    u = 0.1 * torch.randn(*shape, 3 * config.d_model, generator=generator).to(device)
    return tokens, targets, Memory(z, u)


def matrix_rate(device: torch.device, watch: Stopwatch, repeats: int) -> float:
    """Median GFLOP/s of a float32 product of two 2048 × 2048 matrices."""
    a, b = torch.randn(2, MATRIX, MATRIX, device=device)
    times = []
    for _ in range(repeats + 1):
        start = watch.now()
        a @ b
        times.append(watch.now() - start)
    return 2 * MATRIX**3 / statistics.median(times[1:]) / 1e9


def measure(size: Size, mode: str, *, steps: int, device: torch.device) -> str:
    """A line with the figures of `mode`, "train" or "eval"."""
    torch.manual_seed(0)
    model = DEQTransformerLM(size.config).to(device)
    model.train(mode == "train")
    deq = DEQModule(solver="broyden", f_thres=25, b_thres=35, f_eps=0.0, b_eps=0.0)
    tokens, targets, memory = segment(size, device)

    def step() -> None:
        with torch.set_grad_enabled(mode == "train"):
            loss = model(tokens, targets, memory, deq).nll.mean()
            if mode == "train":
                model.zero_grad(set_to_none=True)
                loss.backward()

    with fixed_weights(model) if mode == "eval" else nullcontext():  # as an evaluation does
        return _timed(step, model, steps, mode, device)


def _timed(step: Callable[[], None], model: DEQTransformerLM, steps: int, mode: str, device: torch.device) -> str:
    watch = Stopwatch(device)
    step()
    times, shares, rates, in_units = [], [], [], []
    for _ in range(steps):
        rate = matrix_rate(device, watch, repeats=3)
        inside = Stopwatch(device)
        with timing_inside_f(model, inside):
            start = watch.now()
            step()
            seconds = watch.now() - start
        rate = (rate + matrix_rate(device, watch, repeats=3)) / 2
        times.append(seconds)
        shares.append(inside.total / seconds)
        rates.append(rate)
        in_units.append(seconds * rate)
    median = statistics.median
    return (
        f"{mode:5s}  {median(times):8.3f} s a step   {median(shares):6.1%} inside f   "
        f"{median(in_units):7.0f} GFLOP-equivalents   (matrix products: {median(rates):.0f} GFLOP/s, {steps} steps)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--modes", nargs="+", choices=("train", "eval"), default=("train", "eval"))
    parser.add_argument("--steps", type=count, default=7, help="steps to take the median of (default: %(default)s)")
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu or cuda (default: %(default)s)")
    args = parser.parse_args()
    print(f"{args.size}: {SIZES[args.size]}")
    for mode in args.modes:
        print(measure(SIZES[args.size], mode, steps=args.steps, device=args.device), flush=True)


if __name__ == "__main__":
    main()
