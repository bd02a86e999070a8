"""What the ladder of --amp bf16 saves of a training and an evaluation step of a trained model, on its test text.

A training step is forward and backward, with the implicit gradient and no optimizer step; the evaluation step has the
sizes of the run's evaluation. Both solve to --eps, with the ladder and without, taken in turn on the same segments.
Printed: median seconds, evaluations in bfloat16 and in single precision of the forward and the backward solve, and the
final residuals; with --segments the perplexity of so many segments of the test text.

    PYTHONPATH=DEQModel python benchmarks/benchmark_ladder.py RUN --eps 1e-3 --segments 100
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from measuring import count

from config.depth import equilibrium, evaluation_depth
from data.batches import Batch, OrderedBatches
from data.corpus import Corpus
from evaluation.evaluation import EVAL_ROWS
from evaluation.trained_model import TrainedModel
from modules.deq import DEQModule
from modules.fixed_weights import fixed_weights
from modules.report import SolveInfo, SolveReport
from system.errors import UserError

AMPS = ("off", "bf16")
TRAIN_ROWS = 16


class Steps:
    """The steps of one kind, each on the next segment of a text, with the memory that the one before left."""

    def __init__(self, trained: TrainedModel, deq: DEQModule, ids: np.ndarray, rows: int, *, training: bool):
        self.model, self.deq, self.training = trained.model, deq, training
        length = trained.settings.tgt_len if training else trained.settings.eval_tgt_len
        self.batches: Iterator[Batch] = iter(OrderedBatches(ids, rows, length, device=trained.device))
        self.memory = None
        self.nll, self.n_tokens = 0.0, 0

    def __call__(self) -> SolveInfo:
        """One step; how it was solved."""
        batch = next(self.batches)
        self.model.train(self.training)
        with torch.set_grad_enabled(self.training):
            output = self.model(batch.tokens, batch.targets, self.memory, self.deq)
            if self.training:
                self.model.zero_grad(set_to_none=True)
                output.nll.mean().backward()
        self.memory = output.memory
        self.nll += output.nll.sum(dtype=torch.float64).item()
        self.n_tokens += batch.targets.numel()
        return output.solve


def timed(step: Callable[[], SolveInfo]) -> tuple[float, SolveInfo]:
    """Seconds of a step, whose nll is read on the host, and how it was solved."""
    start = time.perf_counter()
    info = step()
    return time.perf_counter() - start, info


def in_words(reports: list[SolveReport]) -> str:
    """Mean evaluations in either precision, and the mean residual."""
    low = statistics.mean(report.n_low_evals for report in reports)
    full = statistics.mean(report.n_evals for report in reports) - low
    end = statistics.mean(report.rel_residual for report in reports)
    return f"{low:4.1f} + {full:4.1f} evaluations, residual {end:.1e}"


def measure(
    trained: TrainedModel, ids: np.ndarray, solves: dict[str, DEQModule], repeats: int, *, training: bool
) -> None:
    """Print what a kind of step costs."""
    rows = TRAIN_ROWS if training else EVAL_ROWS
    steps = {amp: Steps(trained, deq, ids, rows, training=training) for amp, deq in solves.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {amp: [] for amp in AMPS}
    infos: dict[str, list[SolveInfo]] = {amp: [] for amp in AMPS}
    for repeat in range(repeats):
        for amp in AMPS if repeat % 2 else reversed(AMPS):
            time_of_it, info = timed(steps[amp])
            seconds[amp].append(time_of_it)
            infos[amp].append(info)
    without = statistics.median(seconds["off"])
    for amp in AMPS:
        own = statistics.median(seconds[amp])
        name = f"{'train' if training else 'eval'} {amp}"
        print(
            f"{name:12s} {own:7.3f} s {own / without:5.2f}  forward {in_words([info.forward for info in infos[amp]])}"
        )
        if training:
            print(f"{'':27s} backward {in_words([info.backward for info in infos[amp]])}", flush=True)


def perplexities(trained: TrainedModel, ids: np.ndarray, solves: dict[str, DEQModule], n_segments: int) -> None:
    """Print the perplexity of the first segments."""
    found = {}
    for amp, deq in solves.items():
        steps = Steps(trained, deq, ids, EVAL_ROWS, training=False)
        for _ in range(n_segments):
            steps()
        found[amp] = math.exp(steps.nll / steps.n_tokens)
    apart = abs(found["bf16"] / found["off"] - 1)
    off, bf16 = found["off"], found["bf16"]
    print(f"perplexity of {n_segments} segments: {off:.4f}, with the ladder {bf16:.4f}: {apart:.4%} apart")


def residual(text: str) -> float:
    """A relative residual, as a type of argparse."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{number}: pass a number between 0 and 1")
    return number


def n_segments_of(trained: TrainedModel, ids: np.ndarray) -> int:
    """Segments that the text has for either kind of step."""
    settings = trained.settings
    lengths = ((TRAIN_ROWS, settings.tgt_len), (EVAL_ROWS, settings.eval_tgt_len))
    return min(len(ids) // rows // length for rows, length in lengths)


def both_solves(trained: TrainedModel, thres: int, eps: float, amp: str) -> DEQModule:
    """Solves, forward and backward, to this residual."""
    solves = {"f_thres": thres, "b_thres": thres, "f_eps": eps, "b_eps": eps, "grad": "implicit", "amp": amp}
    return equilibrium(replace(trained.settings, **solves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run that has been trained to an equilibrium")
    parser.add_argument("--eps", type=residual, default=1e-3, help="of both solves (default: %(default)s)")
    parser.add_argument("--thres", type=count, default=60, help="of both solves (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=15, help="to take medians of (default: %(default)s)")
    parser.add_argument("--segments", type=count, default=100, help="perplexity is theirs (default: %(default)s)")
    args = parser.parse_args()
    try:
        trained = TrainedModel.load("benchmark_ladder.py", run=args.run)
        ids = Corpus.load(trained.settings.data, trained.settings.dataset).test
    except UserError as mistake:
        parser.error(str(mistake))
    if not isinstance(evaluation_depth(trained.settings), DEQModule):
        parser.error(f"{args.run} was not trained to an equilibrium: pass a run that was")
    if (steps := max(args.steps + 1, args.segments)) > n_segments_of(trained, ids):
        parser.error(f"the test text has fewer than {steps} segments: lower --steps and --segments")
    solves = {amp: both_solves(trained, args.thres, args.eps, amp) for amp in AMPS}
    for training in (True, False):
        with nullcontext() if training else fixed_weights(trained.model):  # as an evaluation does
            measure(trained, ids, solves, args.steps, training=training)
    with torch.no_grad(), fixed_weights(trained.model):
        perplexities(trained, ids, solves, args.segments)


if __name__ == "__main__":
    main()
