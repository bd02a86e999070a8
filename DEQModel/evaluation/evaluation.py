"""Perplexity of a model on a split."""

import copy
import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from config.depth import reported_options
from config.settings import Settings
from config.words import EVALUATION_LENGTHS, options
from data.corpus import DATASETS
from data.measure import MEASURES
from data.segments import Segment
from evaluation.divided_solves import whole_solve
from evaluation.report import EvaluationReport, SpectralRadius, bar_figures
from evaluation.solve_statistics import SolveStatistics, SolveSummary
from models.protocol import LanguageModel
from modules.depth import Applications, Depth
from modules.deq import DEQModule
from modules.fixed_weights import fixed_weights
from modules.jacobian import spectral_radius
from modules.report import SolveReport
from system.distributed import World
from system.out_of_memory import enough_memory
from system.progress import progress_bar

EVAL_ROWS = 4  # rows in which a split is read; the perplexity depends on it through the rows' beginnings
RADIUS_SEGMENTS = 10  # segments, spread evenly, of an estimate of the spectral radius


def evaluate(
    model: LanguageModel,
    batches: Collection[Segment],
    split: str,
    settings: Settings,
    depth: Depth,
    *,
    world: World | None = None,
) -> EvaluationReport:
    """Loss of `model` on a split: Σ nll / number of targets, segment after segment with the memory carried over.

    Draws no random numbers, and leaves the model in the mode it was in. Several processes share out the rows, and make
    the report that one would.

    Args:
        model: the language model.
        batches: the split's segments in order, each with `tokens` and `targets` (L, B). Several processes use its
            `batch_size` and `only`.
        split: its name, for the report.
        settings: `max_eval_steps` limits the segments, `spectral_radius` adds that; the rest goes into the report.
        depth: how deep the model goes; the solves that `settings` tell of, or plain applications.
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
            depth = _of_parts(depth, team)
            batches = batches.only(team.rows(rows))
        with enough_memory(f"the evaluation on {split}", f"lower {options(settings, *EVALUATION_LENGTHS)}"):
            sums = _read(model, batches, split, settings, depth, hidden=not team.is_first)
        if parts := team.gather(sums):
            report = _report(parts, split, settings, depth, model.memory_length)
    return world.of_first(report)


def _of_parts(depth: Depth, team: World) -> Depth:
    """The same where each process has some of the rows: its solves stop as they would in one process."""
    if not isinstance(depth, DEQModule):
        return depth
    divided = copy.copy(depth)
    divided.batch_sum = team.sum
    return divided


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
    model: LanguageModel,
    batches: Collection[Segment],
    split: str,
    settings: Settings,
    depth: Depth,
    *,
    hidden: bool,
) -> _Sums:
    """Reads the segments; `hidden` without a progress bar."""
    n_segments = len(batches) if settings.max_eval_steps < 0 else min(len(batches), settings.max_eval_steps)
    with_radius = _spread(n_segments) if settings.spectral_radius and not isinstance(depth, Applications) else set()
    was_training = model.training
    model.eval()
    sums, memory, solves, start = _Sums(n_segments), None, SolveStatistics(), time.perf_counter()
    measure = MEASURES[DATASETS[settings.dataset].unit]
    with fixed_weights(model), progress_bar(n_segments, split, hidden=hidden) as bar:
        for i, batch in enumerate(islice(batches, n_segments)):
            if i in with_radius:
                paused = time.perf_counter()
                f, z0 = model.problem(batch.tokens, memory)
                sums.radii.append(spectral_radius(f, depth(f, z0)[0]).cpu())
                start += time.perf_counter() - paused
            output = model(batch.tokens, batch.targets, memory, depth)
            memory = output.memory
            sums.nll = sums.nll + output.nll.sum(0, dtype=torch.float64)
            sums.n_tokens += batch.targets.numel()
            if output.solve is not None:
                solves.add(output.solve.forward)
                sums.solves.append(dataclasses.replace(output.solve.forward, abs_trace=(), rel_trace=()))
            if bar.update():
                speed = sums.n_tokens / (time.perf_counter() - start)
                bar.show(bar_figures(float(sums.nll.sum()) / sums.n_tokens, measure, speed, solves))
    model.train(was_training)
    sums.nll = sums.nll.cpu()
    sums.seconds = time.perf_counter() - start
    return sums


def _report(parts: Sequence[_Sums], split: str, settings: Settings, depth: Depth, memory: int) -> EvaluationReport:
    """The report over all rows, from the sums of each process, by rank."""
    nll = torch.cat([part.nll for part in parts])  # (B,)
    n_tokens = sum(part.n_tokens for part in parts)
    radii = [torch.cat(segment) for segment in zip(*(part.radii for part in parts), strict=True)]
    solves = SolveStatistics()
    for solve in zip(*(part.solves for part in parts), strict=True):
        solves.add(whole_solve(solve))
    return EvaluationReport(
        split=split,
        loss=math.fsum(nll.tolist()) / n_tokens,  # exactly summed, however the rows were shared out
        n_tokens=n_tokens,
        n_segments=parts[0].n_segments,
        rows=len(nll),
        segment=settings.eval_tgt_len,
        memory=memory,
        shallow=depth.n if isinstance(depth, Applications) else None,
        solve=solve_summary(settings, solves) if solves.n_solves else None,
        radius=SpectralRadius.over(radii) if radii else None,
        seconds=parts[0].seconds,
        unit=DATASETS[settings.dataset].unit,
    )


def is_under(report: EvaluationReport, settings: Settings, memory: int) -> bool:
    """Whether a report's lengths and solves are those that settings and a memory of this length ask for."""
    lengths = (report.segment, report.memory) == (settings.eval_tgt_len, memory)
    if report.solve is None:
        return lengths
    return lengths and all(getattr(report.solve, name) == value for name, value in _solver(settings).items())


def _spread(n_segments: int) -> set[int]:
    """Numbers of RADIUS_SEGMENTS segments, or all where there are fewer, spread evenly."""
    n = min(RADIUS_SEGMENTS, n_segments)
    return {i * n_segments // n for i in range(n)}


def solve_summary(settings: Settings, solves: SolveStatistics) -> SolveSummary:
    """The solver that settings name, and what its solves came to."""
    return SolveSummary(
        **_solver(settings),
        steps=solves.mean_steps,
        evaluations=solves.mean_evals,
        low_evaluations=solves.mean_low_evals,
        residual=solves.mean_residual,
        unconverged=solves.unconverged_share,
        stopped=solves.shares(),
    )


def _solver(settings: Settings) -> dict[str, Any]:
    """What of a summary the settings say."""
    return {
        "solver": settings.solver,
        "options": reported_options(settings),
        "threshold": settings.f_thres,
        "eps": settings.f_eps,
        "stop_mode": settings.stop_mode,
        "stop_scope": settings.stop_scope,
        "amp": settings.amp,
    }
