"""One model evaluated under many settings, as a table."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from config.depth import evaluation_depth
from config.settings import Settings
from data.corpus import DATASETS
from data.measure import MEASURES
from data.segments import Segment
from evaluation.evaluation import evaluate
from evaluation.report import EvaluationReport
from evaluation.solve_statistics import residual_in_words
from models.protocol import LanguageModel
from modules.deq import DEQModule
from system.distributed import World
from system.progress import progress_bar, say

COLUMNS: dict[str, Callable[["SweepPoint"], str]] = {
    "valid": lambda point: point.valid.measure.in_table(point.valid.loss),
    "test": lambda point: point.test.measure.in_table(point.test.loss),
    "tokens/s": lambda point: f"{point.test.tokens_per_second:,.0f}",
}
OF_SOLVES: dict[str, Callable[["SweepPoint"], str]] = {
    "steps": lambda point: f"{point.test.solve.steps:.1f}",
    "residual": lambda point: residual_in_words(point.test.solve.residual),
    "unconverged": lambda point: f"{point.test.solve.unconverged:.1%}",
}
WIDTH = 11  # of a column of figures


@dataclass(frozen=True)
class SweepPoint:
    """The settings that were changed, and what came of them."""

    changed: Mapping[str, Any]
    valid: EvaluationReport
    test: EvaluationReport

    def as_dict(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {"settings": dict(self.changed), "valid": self.valid.as_dict(), "test": self.test.as_dict()}


Point = tuple[tuple[str, Any], ...]  # (setting, value), …
Configured = Callable[[Settings], LanguageModel]  # the model, as settings that can be swept ask for it


def sweep(
    model: Configured,
    points: Mapping[Point, Settings],
    segments: Callable[[Settings], Mapping[str, Collection[Segment]]],
    write: Callable[[str], None] = say,
    *,
    world: World | None = None,
) -> Iterator[SweepPoint]:
    """Evaluates the model on valid and test at each point, and writes a row of the table as each is done.

    Tokens per second, steps, residual and the share of unconverged sequences in the table are those of the test split;
    the last three are left out of a model without solves.

    Args:
        model: gives it under each point's settings; its parameters are shared, so that this costs nothing.
        points: what changes, the same settings in each point, -> all settings there.
        segments: splits cut up as settings ask for.
        write: takes a line of the table.
        world: the processes that share the work.
    """
    rows = [dict(point) for point in points]
    widths = {name: max(len(str(point[name])) for point in [{name: name}, *rows]) for name in rows[0]}
    short = MEASURES[DATASETS[next(iter(points.values())).dataset].unit].short
    depths = [evaluation_depth(changed) for changed in points.values()]
    columns = COLUMNS | (OF_SOLVES if isinstance(depths[0], DEQModule) else {})
    heads = [f"{name} {short}" if name in ("valid", "test") else name for name in columns]
    write("  ".join([*(name.rjust(width) for name, width in widths.items()), *(c.rjust(WIDTH) for c in heads)]))
    with progress_bar(len(points), "sweep", hidden=not (world is None or world.is_first)) as bar:
        for point, changed, depth in zip(rows, points.values(), depths, strict=True):
            reports = {
                split: evaluate(model(changed), batches, split, changed, depth, world=world)
                for split, batches in segments(changed).items()
            }
            done = SweepPoint(point, reports["valid"], reports["test"])
            cells = [str(point[name]).rjust(width) for name, width in widths.items()]
            write("  ".join(cells + [figure(done).rjust(WIDTH) for figure in columns.values()]))
            bar.update()
            yield done
