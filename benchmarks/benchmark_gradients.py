"""The gradient modes on the language model: error of the gradient, time and peak memory of a training step.

The error is that of all parameters' gradient against a float64 implicit gradient from solves to 1e-10. A training step
is one forward and one backward pass (no optimizer), its time a median, its memory the peak above what the model holds,
measured in a process of its own. Then the memory at growing depth: the solver's threshold with and without a limited
history, and the unrolled model.

    PYTHONPATH=DEQModel python benchmarks/benchmark_gradients.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measuring import count, in_mib, median_seconds, peak_bytes
from torch import Tensor

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from modules.depth import Applications, Depth
from modules.deq import DEQModule

LENGTH = 75
BATCH = 4
DEPTHS = (10, 20, 40, 80)
WEIGHT_SCALE = 2.0  # of the cell's default initialisation: twenty to fifty steps to 1e-3
SIZES = {"d 64": (64, 4, 128), "d 256": (256, 8, 1024)}  # d_model, n_head, d_inner
MODES = {
    "implicit, broyden": {},
    "implicit, anderson": {"solver": "anderson"},
    "implicit, history 5": {"f_options": {"history": 5}},
    "implicit, shine start": {"b_init": "shine"},
    "shine alone": {"b_init": "shine", "b_thres": 0},
    "one_step": {"grad": "one_step"},
    "phantom, K 5, λ 0.5": {"grad": "phantom"},
    "unroll, 50 steps": {"grad": "unroll"},
}
BY_DEPTH = {
    "implicit, broyden": {},
    "implicit, broyden, history 5": {"f_options": {"history": 5}},
    "implicit, anderson": {"solver": "anderson"},
    "unroll, recomputed": {"grad": "unroll"},
    "plain applications": None,  # ordinary backpropagation: every application keeps its graph
}


def build(size: str) -> tuple[DEQTransformerLM, Tensor, Tensor]:
    """A model with random weights and a batch (L, B) of tokens and targets."""
    d_model, n_head, d_inner = SIZES[size]
    config = DEQTransformerConfig(
        n_token=1000, n_head=n_head, d_head=d_model // n_head, d_model=d_model, d_inner=d_inner, d_embed=d_model
    )
    torch.manual_seed(0)
    model = DEQTransformerLM(config)
    with torch.no_grad():
        for parameter in model.func.parameters():
            parameter.mul_(WEIGHT_SCALE)
    tokens = torch.randint(config.n_token, (LENGTH + 1, BATCH))
    return model, tokens[:-1], tokens[1:]


def equilibrium(**settings: object) -> DEQModule:
    """The solves, with some settings changed."""
    return DEQModule(**({"solver": "broyden", "f_thres": 50, "b_thres": 50, "f_eps": 1e-3, "b_eps": 1e-3} | settings))


def gradient(model: DEQTransformerLM, tokens: Tensor, targets: Tensor, depth: Depth) -> Tensor:
    """The gradient for all parameters, (number of them,)."""
    model.zero_grad(set_to_none=True)
    model(tokens, targets, None, depth).nll.mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def step_of(size: str, depth: Depth) -> Callable[[], object]:
    """A training step, for `peak_bytes` and the clock."""
    model, tokens, targets = build(size)
    torch.set_num_threads(1)
    return lambda: gradient(model, tokens, targets, depth) is None


def exact_gradient(size: str) -> Tensor:
    model, tokens, targets = build(size)
    tight, exact = model.double(), equilibrium(f_thres=200, b_thres=200, f_eps=1e-10, b_eps=1e-10)
    found = gradient(tight, tokens, targets, exact)
    solve = tight(tokens, targets, None, exact).solve
    print(f"  oracle: forward residual {solve.forward.residual:.0e} after {solve.forward.n_evals} evaluations")
    return found


def print_modes(size: str, repeats: int) -> None:
    _, n_head, d_inner = SIZES[size]
    print(f"\n{size}: {n_head} heads, d_inner {d_inner}, L {LENGTH}, B {BATCH}, thresholds 50 / 50, eps 1e-3")
    exact = exact_gradient(size)
    print(f"  {'mode':24s}{'gradient error':>15s}{'evaluations f/b':>17s}{'ms a step':>11s}{'peak MiB':>10s}")
    for name, settings in MODES.items():
        model, tokens, targets = build(size)
        deq = equilibrium(**settings)
        error = ((gradient(model, tokens, targets, deq).double() - exact).norm() / exact.norm()).item()
        output = model(tokens, targets, None, deq)
        output.nll.mean().backward()
        backward = output.solve.backward
        evaluations = f"{output.solve.forward.n_evals} / {backward.n_evals if backward else '-'}"
        milliseconds = 1e3 * median_seconds(step_of(size, deq), repeats)
        peak = in_mib(peak_bytes(step_of, size, deq))
        print(f"  {name:24s}{error:15.1e}{evaluations:>17s}{milliseconds:11.1f}{peak:>10s}", flush=True)


def print_depths(size: str) -> None:
    state = BATCH * LENGTH * SIZES[size][0] * 4 / 2**20
    print(f"\n{size}: peak MiB of a training step at depth (eps 0; a state is {state:.2f} MiB)")
    print(f"  {'':30s}" + "".join(f"{depth:>7d}" for depth in DEPTHS))
    for name, settings in BY_DEPTH.items():
        peaks = []
        for depth in DEPTHS:
            if settings is None:
                peaks.append(peak_bytes(step_of, size, Applications(depth)))
            else:
                thresholds = {"f_thres": depth, "b_thres": depth, "f_eps": 0.0, "b_eps": 0.0}
                peaks.append(peak_bytes(step_of, size, equilibrium(**(settings | thresholds))))
        print(f"  {name:30s}" + "".join(f"{in_mib(peak):>7s}" for peak in peaks), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=count, default=5, help="steps to take the median time of (default: %(default)s)"
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--parts", nargs="+", choices=("modes", "depths"), default=("modes", "depths"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for size in args.sizes:
        if "modes" in args.parts:
            print_modes(size, args.repeats)
        if "depths" in args.parts:
            print_depths(size)


if __name__ == "__main__":
    main()
