"""One model evaluated under many settings, as a table."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from config.settings import Settings
from data.segments import Segment
from evaluation.evaluation import EvaluationReport, evaluate
from evaluation.solve_statistics import in_figures
from system.distributed import World
from system.progress import progress_bar, say

COLUMNS: dict[str, Callable[["SweepPoint"], str]] = {
    "valid ppl": lambda point: f"{point.valid.perplexity:.2f}",
    "test ppl": lambda point: f"{point.test.perplexity:.2f}",
    "tokens/s": lambda point: f"{point.test.tokens_per_second:,.0f}",
    "steps": lambda point: f"{point.test.steps:.1f}",
    "residual": lambda point: in_figures(point.test.residual),
    "unconverged": lambda point: f"{point.test.unconverged:.1%}",
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


def models_of(model: nn.Module, points: Sequence[Mapping[str, Any]]) -> list[nn.Module]:
    """`model` with each point's settings; all share its parameters, so that they cost nothing.

    Raises:
        UserError: a point's settings contradict each other.
    """
    free = {field.name for field in dataclasses.fields(model.config)}
    return [model.with_settings(**{name: point[name] for name in point if name in free}) for point in points]


def sweep(
    models: Sequence[nn.Module],
    points: Sequence[Mapping[str, Any]],
    settings: Settings,
    segments: Callable[[Settings], Mapping[str, Collection[Segment]]],
    write: Callable[[str], None] = say,
    *,
    world: World | None = None,
) -> Iterator[SweepPoint]:
    """Evaluates each point's model on valid and test, and writes a row of the table as each is done.

    Tokens per second, steps, residual and the share of unconverged sequences in the table are those of the test split.

    Args:
        models: as `models_of` gives them.
        points: settings to change, the same ones in each point.
        settings: of the run.
        segments: splits cut up as settings ask for.
        write: takes a line of the table.
        world: the processes that share the work.
    """
    widths = {name: max(len(str(point[name])) for point in [{name: name}, *points]) for name in points[0]}
    write("  ".join([*(name.rjust(width) for name, width in widths.items()), *(c.rjust(WIDTH) for c in COLUMNS)]))
    with progress_bar(len(points), "sweep", hidden=not (world is None or world.is_first)) as bar:
        for model, point in zip(models, points, strict=True):
            changed = dataclasses.replace(settings, **point)
            reports = {
                split: evaluate(model, batches, split, changed, n_layer=None, world=world)
                for split, batches in segments(changed).items()
            }
            done = SweepPoint(point, reports["valid"], reports["test"])
            cells = [str(point[name]).rjust(width) for name, width in widths.items()]
            write("  ".join(cells + [figure(done).rjust(WIDTH) for figure in COLUMNS.values()]))
            bar.update()
            yield done
