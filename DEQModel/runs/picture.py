"""The curves of runs as one picture, for README files and papers; needs matplotlib, which nothing else does."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from runs.comparison import names_of
from runs.history import Curve, History
from system.atomic_file import write_atomically
from system.errors import UserError

SIZE, DPI = (9.0, 9.4), 150  # inches: 9 points are well read where the picture is 900 pixels wide
SMALL, USUAL = 8.5, 10  # points
# Okabe and Ito's colours, which people with any kind of colour vision tell apart; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "0.4"
FORWARD, BACKWARD, PROBE, STAGE = "solid", "dashed", "dotted", (0, (6, 2, 1, 2))  # kinds of lines
KEY = {"forward solves": FORWARD, "backward solves": BACKWARD, "probe, last evaluation": PROBE}
TIMES = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
LONGEST_NAME = 60  # characters; of a longer one the end is shown
WIDTH = 130  # characters of a legend, its lines as long as nine
MOST_POINTS = 120  # of a line: the noise of more would hide the other lines


@dataclass(frozen=True)
class Across:
    """What a panel shows from left to right: where a run's steps are, and what that is called."""

    label: str
    place: Callable[[History, tuple[int, ...]], Sequence[float]]
    needs_times: bool = False


@dataclass(frozen=True)
class Lines:
    """A curve of every run in a panel."""

    curve: Callable[[History], Curve]
    style: object = FORWARD
    marker: str = ""


@dataclass(frozen=True)
class Panel:
    """A part of the picture.

    Attributes:
        title: above it.
        unit: of what goes up.
        across: what goes from left to right.
        lines: what is drawn of each run.
        widest: between the largest and the smallest value, from where on the axis is logarithmic.
    """

    title: str
    unit: str
    across: Across
    lines: Sequence[Lines]
    widest: float = math.inf

    def draw(self, axes: Axes, runs: Sequence[History], colours: Sequence[object]) -> None:
        """Put it on the axes."""
        drawn, ends = [], []
        for run, colour in zip(runs, colours, strict=True):
            if self.across.needs_times and not run.seconds:
                continue
            ends += self.across.place(run, (run.start, run.train_loss.steps[-1]))
            for line in self.lines:
                curve = line.curve(run).thinned(MOST_POINTS)
                marker = line.marker or ("o" if len(curve.steps) == 1 else "")
                place = self.across.place(run, curve.steps)
                axes.plot(place, curve.values, color=colour, linestyle=line.style, lw=1.4, marker=marker, ms=3)
                drawn += [value for value in curve.values if value > 0]
            if run.equilibrium_from:
                (place,) = self.across.place(run, (run.equilibrium_from,))
                axes.axvline(place, color=colour, linestyle=STAGE, lw=1, alpha=0.7)
        dress(axes, self.title, self.across.label, self.unit)
        if ends:
            margin = 0.02 * (max(ends) - min(ends))
            axes.set_xlim(min(ends) - margin, max(ends) + margin)
        if not drawn:
            axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", color=GREY, fontsize=USUAL)
        elif max(drawn) > self.widest * min(drawn):
            make_logarithmic(axes, in_thousands=self.widest > 1)


def _panels(runs: Sequence[History]) -> list[Panel]:
    """Row by row."""
    updates, time = Across("updates", lambda run, steps: steps), _over_time(runs)
    loss = [Lines(lambda run: run.train_loss)]
    perplexity = [Lines(lambda run: run.valid_perplexity, marker="o")]
    steps = [Lines(lambda run: run.forward_steps), Lines(lambda run: run.backward_steps, BACKWARD)]
    residuals = [
        Lines(lambda run: run.forward_residual),
        Lines(lambda run: run.backward_residual, BACKWARD),
        Lines(lambda run: run.probe_residual, PROBE, marker="o"),
    ]
    return [
        Panel("Loss in training", "nats per token", updates, loss),
        Panel("Loss in training over time", "nats per token", time, loss),
        Panel("Perplexity on valid", "perplexity", updates, perplexity, widest=8),
        Panel("Perplexity on valid over time", "perplexity", time, perplexity, widest=8),
        Panel("Solver steps", "steps per solve", updates, steps),
        Panel("Residuals of the solves", "residual", updates, residuals, widest=0),
    ]


def _over_time(runs: Sequence[History]) -> Across:
    longest = max((run.seconds.last or 0 for run in runs), default=0)
    unit = time_unit(longest)

    def place(run: History, steps: tuple[int, ...]) -> list[float]:
        return [seconds / TIMES[unit] for seconds in run.seconds_at(steps)]

    return Across(f"{unit} of training", place, needs_times=True)


def draw(runs: Sequence[History], path: Path) -> None:
    """Write a picture of runs to a PNG file.

    Raises:
        UserError: it cannot be written.
    """
    write_png(figure_of(runs), path)


def write_png(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    try:
        write_atomically(path, lambda file: file.write(content.getvalue()))
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror or error}): name another place") from error


def figure_of(runs: Sequence[History]) -> Figure:
    """Loss and perplexity over updates and over time, and how the solves went; a colour a run."""
    figure = empty_figure(SIZE)
    colours = colours_for(len(runs))
    for axes, panel in zip(figure.subplots(3, 2).flat, _panels(runs), strict=True):
        panel.draw(axes, runs, colours)
    add_names(figure, names_of(runs))
    key = [Line2D([], [], color=GREY, linestyle=style, label=label) for label, style in KEY.items()]
    if any(run.equilibrium_from for run in runs):
        key.append(Line2D([], [], color=GREY, linestyle=STAGE, lw=1, label="shallow stage ends"))
    _legend(figure, "lower", key)
    return figure


def empty_figure(size: tuple[float, float]) -> Figure:
    """So many inches wide and high; its panels make room for each other."""
    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04, h_pad=0.06)
    return figure


def dress(axes: Axes, title: str, across: str, up: str) -> None:
    """Give a panel its title, the names of its axes and its looks."""
    axes.set_title(title, fontsize=USUAL, fontweight="bold", loc="left")
    axes.set_xlabel(across, fontsize=SMALL)
    axes.set_ylabel(up, fontsize=SMALL)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.xaxis.set_major_formatter(FuncFormatter(_in_thousands))
    axes.grid(color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def make_logarithmic(axes: Axes, *, in_thousands: bool) -> None:
    """Have a logarithmic axis go up, with powers of 10, or with numbers that people read."""
    axes.set_yscale("log")
    axes.tick_params(axis="y", which="minor", labelsize=SMALL)
    if in_thousands:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(_in_thousands))
        axes.yaxis.set_minor_formatter(NullFormatter())


def time_unit(longest: float) -> str:
    """The largest unit of `TIMES` of which there are two in so many seconds."""
    return next((name for name, size in TIMES.items() if longest >= 2 * size), "seconds")


def colours_for(n: int) -> list[object]:
    """A colour for each of n runs."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    return list(matplotlib.colormaps["cividis"]([0.9 * i / (n - 1) for i in range(n)]))


def add_names(figure: Figure, names: Sequence[str]) -> None:
    """Put names above all panels, each beside its colour."""
    named = zip(colours_for(len(names)), map(_label, names), strict=True)
    _legend(figure, "upper", [Line2D([], [], color=colour, lw=2, label=name) for colour, name in named])


def _in_thousands(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _label(name: str) -> str:
    """A name as matplotlib takes it: it leaves out labels that begin with an underscore, and reads $ as mathematics."""
    short = name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
    return f"{' ' * short.startswith('_')}{short}".replace("$", r"\$")


def _legend(figure: Figure, side: str, handles: Sequence[Line2D]) -> None:
    """Above or below all panels, in as many columns as fit."""
    widths = [len(handle.get_label()) + 9 for handle in handles]
    columns = len(handles) if sum(widths) <= WIDTH else max(1, WIDTH // max(widths))
    figure.legend(handles=handles, loc=f"outside {side} center", ncols=columns, fontsize=SMALL + 0.5, frameon=False)
