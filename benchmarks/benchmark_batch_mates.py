"""How far a sequence's losses depend on the other sequences of its batch.

Random batches of a language model with random weights; two of the rows cannot be solved: one has a NaN in its memory,
one a memory of a size at which the iterates never settle. Ordinary rows of each batch are solved again on their own,
and the nll of their tokens compared.

Printed for each solver and dtype, for the stop scope "batch" with and without those two rows, and for "sequence" with
them: how many rows there are, and the largest |Δnll| among them, of three kinds:

    same step      both solves converged, at iterates of the same step
    other step     both converged, at different steps
    unconverged    one of the solves did not converge: its result is a point on a path, not an equilibrium

Guaranteed with the scope "sequence" is that nothing but rounding tells the two solves apart. The solvers' own sums
round the same at any batch size; f's products, which the libraries may sum in another order at another size, need not.
Such a difference is amplified by the solver's steps (broyden: up to some 10⁵ times), and where it moves a residual
across eps, one of the two solves goes on, and they differ by about eps, as amplified by the equilibrium's conditioning.

    PYTHONPATH=DEQModel python benchmarks/benchmark_batch_mates.py
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass

import torch
from measuring import count
from torch import Tensor

from models.protocol import LMOutput
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM, Memory
from modules.deq import DEQModule

CASES = (("batch", False), ("batch", True), ("sequence", True))  # stop scope, whether two rows are planted
KINDS = ("same step", "other step", "unconverged")
COMPARED = 2  # ordinary rows of each batch that are solved alone
HUGE = 1e4


@dataclass(frozen=True)
class Comparison:
    """One row in its batch against the same row alone."""

    kind: str  # one of KINDS
    difference: float  # largest |Δnll| over its positions, nats


def build(args: argparse.Namespace) -> DEQTransformerLM:
    """Random weights, the same ones at every call, with an injection that is strong enough for solves to converge."""
    torch.manual_seed(0)
    config = DEQTransformerConfig(
        n_token=1000,
        n_head=4,
        d_head=args.d_model // 4,
        d_model=args.d_model,
        d_inner=4 * args.d_model,
        d_embed=args.d_model,
        mem_len=args.length,
    )
    model = DEQTransformerLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=args.gain / math.sqrt(args.d_model))
    torch.nn.init.normal_(model.word_emb.emb_layers[0].weight, std=1 / math.sqrt(args.d_model))
    torch.nn.init.normal_(model.inject_conv.weight, std=args.injection / math.sqrt(args.d_model))
    return model


def draw(args: argparse.Namespace, generator: torch.Generator, *, planted: bool) -> tuple[Tensor, Memory, list[int]]:
    """Tokens (L + 1, B), a memory, and the rows to compare."""
    n_batch, length, d_model = args.batch_size, args.length, args.d_model
    stream = torch.randint(1000, (length + 1, n_batch), generator=generator)
    z = torch.randn(n_batch, length, d_model, generator=generator)
    u = args.injection * torch.randn(n_batch, length, 3 * d_model, generator=generator)
    order = torch.randperm(n_batch, generator=generator).tolist()
    if planted:
        z[order[0], 0, 0] = math.nan
        z[order[1]] *= HUGE
    return stream, Memory(z, u), order[2 : 2 + COMPARED]


def compare_row(together: LMOutput, row: int, alone: LMOutput) -> Comparison:
    """The row in its batch, and on its own."""
    inside, own = together.solve.forward, alone.solve.forward
    kind = "same step" if inside.sequence_steps[row] == own.sequence_steps[0] else "other step"
    if not (inside.sequence_residuals[row] < inside.eps and own.sequence_residuals[0] < own.eps):
        kind = "unconverged"
    return Comparison(kind, (together.nll[:, row] - alone.nll[:, 0]).abs().max().item())


def compare(args: argparse.Namespace, solver: str, scope: str, dtype: torch.dtype, *, planted: bool) -> str:
    """A line of the table."""
    model = build(args).to(dtype)
    deq = DEQModule(solver=solver, stop_scope=scope, f_thres=args.f_thres, f_eps=args.f_eps)
    generator = torch.Generator().manual_seed(1)
    found, steps = [], []
    for _ in range(args.batches):
        stream, memory, rows = draw(args, generator, planted=planted)
        memory = Memory(memory.z.to(dtype), memory.u.to(dtype))
        together = model(stream[:-1], stream[1:], memory, deq)
        for row in rows:
            tokens = stream[:, row : row + 1]
            own = Memory(memory.z[row : row + 1], memory.u[row : row + 1])
            alone = model(tokens[:-1], tokens[1:], own, deq)
            found.append(compare_row(together, row, alone))
            steps.append(alone.solve.forward.n_steps)
    line = f"{solver:12s} {str(dtype).removeprefix('torch.'):8s} {scope:9s} {'planted' if planted else 'ordinary':9s}"
    for kind in KINDS:
        differences = [comparison.difference for comparison in found if comparison.kind == kind]
        line += f"{len(differences):7d} " + (f"{max(differences):9.1e}" if differences else f"{'-':>9s}")
    return line + f"{statistics.mean(steps):9.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=count, default=50, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=count, default=8, help="(default: %(default)s)")
    parser.add_argument("--length", type=int, default=64, help="tokens of segment and memory (default: %(default)s)")
    parser.add_argument("--d_model", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--f_thres", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--f_eps", type=float, default=1e-3, help="(default: %(default)s)")
    parser.add_argument("--gain", type=float, default=0.7, help="std of a weight · √d_model (default: %(default)s)")
    parser.add_argument("--injection", type=float, default=5.0, help="std of u (default: %(default)s)")
    parser.add_argument("--solvers", nargs="+", default=["broyden", "anderson"], help="(default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], help="(default: %(default)s)")
    args = parser.parse_args()
    print(f"{args.batches} batches of {args.batch_size} × {args.length} tokens, d_model {args.d_model}: |Δnll| in nats")
    print(
        f"{'solver':12s} {'dtype':8s} {'scope':9s} {'mates':9s}"
        + "".join(f"{kind:>17s}" for kind in KINDS)
        + "    steps"
    )
    with torch.no_grad():
        for solver in args.solvers:
            for dtype in args.dtypes:
                for scope, planted in CASES:
                    print(compare(args, solver, scope, getattr(torch, dtype), planted=planted), flush=True)


if __name__ == "__main__":
    main()
