"""The courses of systems as one picture; needs matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from outcome import Course
from summary import Summary

from runs.picture import TIMES, add_names, colours_for, dress, empty_figure, make_logarithmic, time_unit, write_png

SIZE = (9.0, 4.6)  # inches
WIDEST = 8  # between the largest and the smallest value, from where on the axis is logarithmic


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Write the picture to a PNG file.

    Raises:
        UserError: it cannot be written.
    """
    write_png(figure_of(summaries), path)


def figure_of(summaries: Sequence[Summary]) -> Figure:
    """Validation, or the training loss of a synthetic task, against updates and against seconds of training.

    A colour a system: a line for the mean of its seeds, and a thin one for each where there are several.
    """
    courses = [[outcome.course for outcome in summary.outcomes.values()] for summary in summaries]
    drawn = [course for some in courses for course in some]
    unit = time_unit(max((second for course in drawn for second in course.seconds), default=0))
    measures = dict.fromkeys(course.measure for course in drawn)
    figure = empty_figure(SIZE)
    by_updates, by_seconds = figure.subplots(1, 2)
    for axes, across, place in (
        (by_updates, "updates", lambda course: course.updates),
        (by_seconds, f"{unit} of training", lambda course: [second / TIMES[unit] for second in course.seconds]),
    ):
        for some, colour in zip(courses, colours_for(len(courses)), strict=True):
            _draw(axes, some, place, colour)
        dress(axes, f"By {across}", across, ", ".join(measures))
        values = [value for course in drawn for value in course.values if value > 0]
        if values and max(values) > WIDEST * min(values):
            make_logarithmic(axes, in_thousands=min(values) >= 1)
    add_names(figure, [summary.system.name for summary in summaries])
    return figure


def _draw(axes: Axes, courses: Sequence[Course], place: Callable[[Course], Sequence[float]], colour: object) -> None:
    lines = [dict(zip(c.updates, zip(place(c), c.values, strict=True), strict=True)) for c in courses if place(c)]
    if len(lines) > 1:
        for line in lines:
            axes.plot(*zip(*line.values(), strict=True), color=colour, lw=0.7, alpha=0.4)
    common = [update for update in lines[0] if all(update in line for line in lines)] if lines else []
    if common:
        means = [[statistics.fmean(line[update][i] for line in lines) for update in common] for i in (0, 1)]
        axes.plot(*means, color=colour, lw=1.6, marker="o", ms=3 if len(common) < 30 else 0)
