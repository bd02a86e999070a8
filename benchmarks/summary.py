"""What systems came to over their seeds: a table for people, the same and all runs for programs."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comparison import System
from job import Job
from outcome import Outcome

from system.figures import deviation, power, three_digits, with_spread
from system.lines import under_each_other

MISSING = "-"
MEGABYTE = 1e6
WRITE: Mapping[str, Callable[[float], str]] = {  # a measure's figures
    "perplexity": "{:.2f}".format,
    "bits per character": "{:.4f}".format,
    "loss": power,
    "accuracy": "{:.4f}".format,
}
MEANS: Mapping[str, Callable[[float], str]] = {  # of an outcome
    "seconds": "{:.0f}".format,
    "ms_a_step": "{:.1f}".format,
    "peak_memory": lambda size: f"{size / MEGABYTE:.0f}",
    "forward_steps": "{:.1f}".format,
    "backward_steps": "{:.1f}".format,
    "residual": power,
}
HEADS = {"ms_a_step": "ms/step", "peak_memory": "MB", "forward_steps": "forward", "backward_steps": "backward"}


@dataclass(frozen=True)
class Summary:
    """A system's runs.

    Attributes:
        system: what was trained.
        outcomes: of the runs that are finished, by their jobs.
        failures: of the others, why they are not.
    """

    system: System
    outcomes: Mapping[Job, Outcome]
    failures: Mapping[Job, str]

    @property
    def seeds(self) -> str:
        """How many there are."""
        n_all = len(self.outcomes) + len(self.failures)
        return f"{len(self.outcomes)} of {n_all}" if self.failures else str(n_all)

    @property
    def measures(self) -> list[str]:
        """Those of its test, the one that ranks it first."""
        return list(next(iter(self.outcomes.values())).scores) if self.outcomes else []

    def scores(self, measure: str) -> list[float]:
        """A figure of each run's test."""
        return [outcome.scores[measure] for outcome in self.outcomes.values() if measure in outcome.scores]

    def mean(self, figure: str) -> float | None:
        """Of a figure, by the name that an outcome has for it, over the runs that have it."""
        values = [getattr(outcome, figure) for outcome in self.outcomes.values()]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None


def ratios(summaries: Sequence[Summary]) -> list[float | None]:
    """Of each system's mean score to that of the best with the same measure."""
    means = [(s.measures[0], statistics.fmean(s.scores(s.measures[0]))) if s.measures else None for s in summaries]
    best: dict[str, float] = {}
    for measure, value in filter(None, means):
        if math.isfinite(value):
            best[measure] = min(value, best.get(measure, math.inf))
    return [mean[1] / best[mean[0]] if mean and best.get(mean[0], 0) > 0 else None for mean in means]


def table(summaries: Sequence[Summary]) -> str:
    """A line a system: means over its finished runs, of test figures with their standard deviations."""
    measures = list(dict.fromkeys(measure for summary in summaries for measure in summary.measures))
    columns = [
        ["system", *(summary.system.name for summary in summaries)],
        ["seeds", *(summary.seeds for summary in summaries)],
        ["params", *_cells([summary.mean("parameters") for summary in summaries], three_digits)],
        ["body", *_cells([summary.mean("body") for summary in summaries], three_digits)],
    ]
    for measure in measures:
        scores = [summary.scores(measure) for summary in summaries]
        columns.append([measure, *(with_spread(some, WRITE[measure]) if some else MISSING for some in scores)])
    columns.append(["ratio", *_cells(ratios(summaries), "{:.3f}".format)])
    for figure, write in MEANS.items():
        columns.append([HEADS.get(figure, figure), *_cells([summary.mean(figure) for summary in summaries], write)])
    return under_each_other(columns)


def _cells(values: Sequence[float | None], write: Callable[[float], str]) -> list[str]:
    return [MISSING if value is None else write(value) for value in values]


def as_dict(summaries: Sequence[Summary]) -> dict[str, Any]:
    """All figures: those of the table, and each run's, its course included."""
    systems = []
    for summary, ratio in zip(summaries, ratios(summaries), strict=True):
        scores = {measure: _spread(summary.scores(measure)) for measure in summary.measures}
        means = {figure: summary.mean(figure) for figure in ("parameters", "body", *MEANS)}
        runs = [_run(job) | dataclasses.asdict(outcome) for job, outcome in summary.outcomes.items()]
        runs += [_run(job) | {"failed": reason} for job, reason in summary.failures.items()]
        systems.append({"system": summary.system.name, "scores": scores, "ratio": ratio, **means, "runs": runs})
    return {"systems": systems}


def _run(job: Job) -> dict[str, Any]:
    return {"seed": job.seed, "threads": job.threads, "command": list(job.words), "folder": str(job.place)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "standard_deviation": deviation(values)}
