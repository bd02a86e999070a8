"""The solvers on the tests' table of problems, and beside those of torchdeq on the same maps.

First table: evaluations of f, relative residual and reason, for every problem, solver, dtype and scale. Second: both
libraries until every sequence's relative residual is below the one asked for: evaluations, milliseconds (median) and
the largest residual of the value that came back, computed apart from the solvers. Third: a map of useful size, and the
peak memory of a solve of 40 steps.

    pip install --no-deps -r benchmarks/requirements.txt
    PYTHONPATH=DEQModel:tests python benchmarks/benchmark_solvers.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import torch
from measuring import count, in_mib, median_seconds, peak_bytes
from peer import MISSING
from peer import get_solver as torchdeq_solver
from problems import PROBLEMS
from torch import Tensor

from modules.solvers import anderson, broyden, fixed_point

SOLVERS = {
    "broyden": broyden,
    "broyden, history 4": partial(broyden, history=4),
    "anderson": anderson,
    "anderson, lam 1e-4": partial(anderson, lam=1e-4),
    "fixed_point": fixed_point,
}
EPS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 3e-2}
SCALES = (1e-6, 1.0, 1e6)
THRESHOLD = 150

Solve = Callable[[Callable[[Tensor], Tensor], Tensor, int, float], Tensor]  # f, start, threshold, eps -> value


def ours(name: str, **options: object) -> Solve:
    def solve(f: Callable[[Tensor], Tensor], start: Tensor, threshold: int, eps: float) -> Tensor:
        return SOLVERS[name](f, start, threshold=threshold, eps=eps, stop_scope="sequence", **options).value

    return solve


def theirs(name: str) -> Solve:
    def solve(f: Callable[[Tensor], Tensor], start: Tensor, threshold: int, eps: float) -> Tensor:
        return torchdeq_solver(name)(f, start, max_iter=threshold, tol=eps, stop_mode="rel")[0]

    return solve


PAIRS: dict[str, tuple[Solve, Solve]] = {
    "broyden": (ours("broyden"), theirs("broyden")),
    "anderson": (ours("anderson"), theirs("anderson")),
    "fixed_point": (ours("fixed_point"), theirs("fixed_point_iter")),
}


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def print_table() -> None:
    print(f"Evaluations, relative residual, reason. At most {THRESHOLD} steps; eps {describe(EPS)}; scales {SCALES}.")
    for name, solver in SOLVERS.items():
        print(f"\n{name}")
        for problem_name, build in PROBLEMS.items():
            for dtype, eps in EPS.items():
                cells = []
                for scale in SCALES:
                    problem = build(dtype).flattened().scaled(scale)
                    report = solver(problem.f, problem.start, threshold=THRESHOLD, eps=eps).report
                    reason = report.termination.name.lower()
                    cells.append(f"{report.n_evals:4d} {report.rel_residual:7.0e} {reason:10s}")
                print(f"  {problem_name:13s}{short(dtype):9s}" + "  ".join(cells))


def describe(eps: dict[torch.dtype, float]) -> str:
    return ", ".join(f"{value:g} in {short(dtype)}" for dtype, value in eps.items())


def outcome(solve: Solve, f: Callable[[Tensor], Tensor], start: Tensor, eps: float, repeats: int) -> str:
    """Evaluations, milliseconds and the residual of the value."""
    calls = 0

    def counted(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z)

    try:
        z = solve(counted, start, THRESHOLD, eps)
    except (RuntimeError, ValueError) as error:
        return f"raises {type(error).__name__}".ljust(25)
    fz = f(z)
    residual = ((fz - z).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)).double().max().item()
    milliseconds = 1e3 * median_seconds(lambda: solve(f, start, THRESHOLD, eps), repeats)
    missed = " " if residual < 1.5 * eps else "!"
    return f"{calls:4d} {milliseconds:8.2f} {residual:9.1e} {missed}"


def print_comparison(repeats: int) -> None:
    print("\nUntil every sequence is below eps: evaluations, ms, largest residual of the value; ! = eps was missed.")
    titles = "   ".join(f"{f'{name}, {who}':25s}" for name in PAIRS for who in ("here", "torchdeq"))
    print(f"{'':13s}{'':9s}{'scale':>6s} {'eps':>6s}  {titles}")
    for problem_name, build in PROBLEMS.items():
        for dtype, eps, scale in (
            (torch.float32, 1e-3, 1.0),
            (torch.float32, 1e-3, 1e-3),
            (torch.float64, 1e-8, 1.0),
        ):
            problem = build(dtype).flattened().scaled(scale)
            cells = [
                outcome(solve, problem.f, problem.start, eps, repeats) for pair in PAIRS.values() for solve in pair
            ]
            print(f"{problem_name:13s}{short(dtype):9s}{scale:6g} {eps:6g}  " + "   ".join(cells), flush=True)


def large_map(n_batch: int = 4, length: int = 75, width: int = 768) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """tanh(z W + x) with an orthogonal W of norm 0.95, and its start (B, L, D)."""
    torch.manual_seed(0)
    weight = 0.95 * torch.linalg.qr(torch.randn(width, width))[0]
    x = 0.3 * torch.randn(n_batch, length, width)
    return lambda z: torch.tanh(z @ weight + x), torch.zeros(n_batch, length, width)


def memory_of(who: str, name: str, history: int | None) -> Callable[[], object]:
    """A solve of 40 steps of the large map, for `peak_bytes`."""
    f, start = large_map()
    solve = PAIRS[name][who == "torchdeq"]
    if history:
        solve = ours(name, history=history)
    torch.set_num_threads(1)
    return lambda: solve(f, start, 40, 0.0)


def print_large(repeats: int) -> None:
    f, start = large_map()
    state = start.numel() * start.element_size()
    print(f"\ntanh(z W + x), state {tuple(start.shape)} float32, {state / 2**20:.1f} MiB; f alone: ", end="")
    print(f"{1e3 * median_seconds(lambda: f(start), repeats):.1f} ms.")
    print("evaluations, ms, residual until eps 1e-3 | ms per step (40 steps) | peak MiB of 40 steps")
    for name, pair in PAIRS.items():
        for who, solve in zip(("here", "torchdeq"), pair, strict=True):
            if who == "torchdeq" and MISSING:
                continue
            until = outcome(solve, f, start, 1e-3, repeats)
            step = 1e3 * median_seconds(lambda solve=solve: solve(f, start, 40, 0.0), repeats) / 40
            peak = in_mib(peak_bytes(memory_of, who, name, None))
            print(f"  {name:12s}{who:10s}" + " | ".join([until, f"{step:6.1f}", f"{peak:>5s}"]), flush=True)
    print(f"  broyden, history 5 (here): {in_mib(peak_bytes(memory_of, 'here', 'broyden', 5))} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=count, default=3, help="calls to take the median time of (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    with torch.no_grad():
        print_table()
        if MISSING:
            print(f"\n{MISSING}")
        else:
            print_comparison(args.repeats)
        print_large(args.repeats)


if __name__ == "__main__":
    main()
