"""Perplexity of a model on a split, with all that the number depends on, and that of a unigram model."""

import dataclasses
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config.settings import Settings
from data.segments import Segment
from evaluation.divided_solves import united
from evaluation.solve_statistics import SolveStatistics, in_figures, in_words
from modules.report import SolveReport
from system.distributed import World
from system.out_of_memory import enough_memory
from system.progress import progress_bar

EVAL_ROWS = 4  # rows in which a split is read; the perplexity depends on it through the rows' beginnings
RADIUS_SEGMENTS = 10  # segments, spread evenly, of an estimate of the spectral radius


def perplexity(loss: float) -> float:
    """exp(loss in nats per token); infinite where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class SpectralRadius:
    """Spectral radius of ∂f/∂z at the equilibrium, over the sequences of some segments."""

    mean: float
    max: float
    n_sequences: int
    n_segments: int

    @classmethod
    def over(cls, segments: Sequence[Tensor]) -> "SpectralRadius":
        """From the estimates (B,) of each segment."""
        every = torch.cat(list(segments))
        return cls(float(every.mean()), float(every.max()), len(every), len(segments))

    def __str__(self) -> str:
        return (
            f"spectral radius of the Jacobian: mean {self.mean:.3f}, max {self.max:.3f} over {self.n_sequences} "
            f"sequences of {self.n_segments} segments"
        )


@dataclass(frozen=True)
class EvaluationReport:
    """A split's loss and everything that the number depends on.

    Attributes:
        split: valid or test.
        loss: mean nll, nats per token.
        n_tokens: tokens scored: all but the first of each row.
        n_segments: segments read, each of `segment` tokens in `rows` rows.
        memory: length of the memory.
        shallow: applications of the cell, None for an equilibrium.
        solver, history, ridge, threshold, eps, stop_mode, stop_scope: of the forward solve.
        steps, evaluations, residual: means over the solves, None where shallow.
        unconverged: share of the sequences whose own residual stayed above eps, over all solves; None where shallow.
        radius: of ∂f/∂z, where it was asked for.
        stopped: reason -> share of the solves.
        seconds: time taken, the spectral radius apart.
    """

    split: str
    loss: float
    n_tokens: int
    n_segments: int
    rows: int
    segment: int
    memory: int
    shallow: int | None
    solver: str
    history: int | None
    ridge: float | None
    threshold: int
    eps: float
    stop_mode: str
    stop_scope: str
    steps: float | None
    evaluations: float | None
    residual: float | None
    unconverged: float | None
    stopped: dict[str, float]
    radius: SpectralRadius | None
    seconds: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "EvaluationReport":
        """From `dataclasses.asdict`."""
        radius = values["radius"]
        return cls(**{**values, "radius": radius and SpectralRadius(**radius)})

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss)

    @property
    def tokens_per_second(self) -> float:
        """Tokens scored per second."""
        return self.n_tokens / max(self.seconds, 1e-9)

    def scalars(self) -> dict[str, float]:
        """The numbers that change from one validation to the next, by the names of their curves."""
        values = {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "tokens_per_second": self.tokens_per_second,
            "steps": self.steps,
            "evaluations": self.evaluations,
            "residual": self.residual,
            "unconverged_sequences": self.unconverged,
            "spectral_radius/mean": self.radius and self.radius.mean,
            "spectral_radius/max": self.radius and self.radius.max,
            **{f"stopped/{reason}": share for reason, share in self.stopped.items()},
        }
        return {f"{self.split}/{name}": value for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """All of it, for a file."""
        derived = {"perplexity": self.perplexity, "tokens_per_second": self.tokens_per_second}
        return {**dataclasses.asdict(self), **derived}

    def __str__(self) -> str:
        bits = self.loss / math.log(2)
        lines = [
            f"{self.split}: perplexity {self.perplexity:.3f} | loss {self.loss:.5f} nats ({bits:.5f} bits) per token",
            f"{self.n_tokens:,} tokens scored in {self.rows} rows, {self.n_segments:,} segments of {self.segment}, "
            f"memory {self.memory}",
            self._how_solved(),
            *([str(self.radius)] if self.radius else []),
            f"{self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens/s",
        ]
        return "\n    ".join(lines)

    def _how_solved(self) -> str:
        if self.shallow is not None:
            return f"shallow: {self.shallow} applications of the cell"
        history = "" if self.history is None else f", history {self.history}"
        ridge = "" if self.ridge is None else f", ridge {self.ridge:g}"
        return (
            f"{self.solver}{history}{ridge}, threshold {self.threshold}, eps {self.eps:g}, stop mode "
            f"{self.stop_mode}, stop scope {self.stop_scope}: on average {self.steps:.1f} steps, "
            f"{self.evaluations:.1f} evaluations, residual {in_figures(self.residual, digits=2)}; stopped: "
            f"{in_words(self.stopped)}; {self.unconverged:.1%} of sequences not converged"
        )


def evaluate(
    model: nn.Module,
    batches: Collection[Segment],
    split: str,
    settings: Settings,
    *,
    n_layer: int | None,
    world: World | None = None,
) -> EvaluationReport:
    """Loss of `model` on a split: Σ nll / number of targets, segment after segment with the memory carried over.

    Draws no random numbers, and leaves the model in the mode it was in. Several processes share out the rows, and make
    the report that one would.

    Args:
        model: called as model(tokens, targets, memory, n_layer=…), giving `nll` (L, B), `memory` and `solve`; with
            a method `spectral_radius(tokens, memory)` where the settings ask for that. Several processes use its
            `with_settings`.
        batches: the split's segments in order, each with `tokens` and `targets` (L, B). Several processes use its
            `batch_size` and `only`.
        split: its name, for the report.
        settings: `max_eval_steps` limits the segments, `spectral_radius` adds that; the rest goes into the report.
        n_layer: applications of the cell; None for the equilibrium.
        world: the processes, all of which must call this; None for one.

    Returns:
        The report, the same on all processes.

    Raises:
        UserError: memory ran out.
    """
    world = world or World()
    team, report = world, None
    if world.size > 1:
        rows = batches.batch_size
        team = world.part(min(world.size, rows))
    if team is not None:
        if world.size > 1:
            model = model.with_settings(batch_sum=team.sum)  # solves stop as they would in one process
            batches = batches.only(team.rows(rows))
        with enough_memory(f"the evaluation on {split}", "lower --eval_tgt_len or --mem_len"):
            sums = _read(model, batches, split, settings, n_layer, hidden=not team.is_first)
        if parts := team.gather(sums):
            report = _report(parts, split, settings, n_layer)
    return world.of_first(report)


@dataclass
class _Sums:
    """What a pass over a split's segments finds out of the b rows that it reads."""

    n_segments: int
    nll: Tensor | float = 0.0  # (b,) Σ over the tokens of each row
    n_tokens: int = 0
    solves: list[SolveReport] = field(default_factory=list)  # without their traces
    radii: list[Tensor] = field(default_factory=list)  # (b,) each
    seconds: float = 0.0  # the spectral radius apart


@torch.no_grad()
def _read(
    model: nn.Module,
    batches: Collection[Segment],
    split: str,
    settings: Settings,
    n_layer: int | None,
    *,
    hidden: bool,
) -> _Sums:
    """Reads the segments; `hidden` without a progress bar."""
    n_segments = len(batches) if settings.max_eval_steps < 0 else min(len(batches), settings.max_eval_steps)
    with_radius = _spread(n_segments) if settings.spectral_radius and n_layer is None else set()
    was_training = model.training
    model.eval()
    sums, memory, solves, start = _Sums(n_segments), None, SolveStatistics(), time.perf_counter()
    with progress_bar(n_segments, split, hidden=hidden) as bar:
        for i, batch in enumerate(islice(batches, n_segments)):
            if i in with_radius:
                paused = time.perf_counter()
                sums.radii.append(model.spectral_radius(batch.tokens, memory).cpu())
                start += time.perf_counter() - paused
            output = model(batch.tokens, batch.targets, memory, n_layer=n_layer)
            memory = output.memory
            sums.nll = sums.nll + output.nll.sum(0, dtype=torch.float64)
            sums.n_tokens += batch.targets.numel()
            if output.solve is not None:
                solves.add(output.solve.forward)
                sums.solves.append(dataclasses.replace(output.solve.forward, abs_trace=(), rel_trace=()))
            if bar.update():
                speed = sums.n_tokens / (time.perf_counter() - start)
                bar.set_postfix_str(bar_text(float(sums.nll.sum()) / sums.n_tokens, speed, solver=solves))
    model.train(was_training)
    sums.nll = sums.nll.cpu()
    sums.seconds = time.perf_counter() - start
    return sums


def _report(parts: Sequence[_Sums], split: str, settings: Settings, n_layer: int | None) -> EvaluationReport:
    """Of all rows, from what was found out of some by each process, in their order."""
    nll = torch.cat([part.nll for part in parts])  # (B,)
    n_tokens = sum(part.n_tokens for part in parts)
    radii = [torch.cat(segment) for segment in zip(*(part.radii for part in parts), strict=True)]
    solves = SolveStatistics()
    for solve in zip(*(part.solves for part in parts), strict=True):
        solves.add(united(solve))
    return EvaluationReport(
        split=split,
        loss=math.fsum(nll.tolist()) / n_tokens,  # exactly summed, however the rows were shared out
        n_tokens=n_tokens,
        n_segments=parts[0].n_segments,
        rows=len(nll),
        shallow=n_layer,
        radius=SpectralRadius.over(radii) if radii else None,
        seconds=parts[0].seconds,
        **_lengths_and_solves(settings, solves),
    )


def _spread(n_segments: int) -> set[int]:
    """Numbers of RADIUS_SEGMENTS segments, or all where there are fewer, spread evenly."""
    n = min(RADIUS_SEGMENTS, n_segments)
    return {i * n_segments // n for i in range(n)}


def _lengths_and_solves(settings: Settings, solves: SolveStatistics) -> dict[str, Any]:
    """The parts of a report that tell of the lengths, the solver and its solves."""
    solved = solves.n_solves > 0
    return {
        "segment": settings.eval_tgt_len,
        "memory": settings.mem_len,
        "solver": settings.solver,
        "history": settings.f_history,
        "ridge": settings.anderson_ridge,
        "threshold": settings.f_thres,
        "eps": settings.f_eps,
        "stop_mode": settings.stop_mode,
        "stop_scope": settings.stop_scope,
        "steps": solves.mean_steps if solved else None,
        "evaluations": solves.mean_evals if solved else None,
        "residual": solves.mean_residual if solved else None,
        "unconverged": solves.unconverged_share if solved else None,
        "stopped": solves.shares() if solved else {},
    }


def bar_text(loss: float, speed: float, **solves: SolveStatistics) -> str:
    """Loss, perplexity, tokens per second and each kind of solves' means: a bar of 80 columns has room for it."""
    text = f"loss {loss:.3f} ppl {perplexity(loss):.5g} {tqdm.format_sizeof(speed)} tok/s"
    return " ".join([text, *(f"{kind} {solve.brief()}" for kind, solve in solves.items() if solve.n_solves)])
