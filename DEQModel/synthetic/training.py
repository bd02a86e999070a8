"""The training loop of the synthetic tasks: it is short, and keeps nothing but its figures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from config.depth import equilibrium
from models.protocol import LanguageModel
from modules.depth import Applications, DepthSchedule
from synthetic.examples import batches, to
from synthetic.models import is_equilibrium
from synthetic.optimizers import OPTIMIZERS
from synthetic.scoring import Score, mean_steps, score
from synthetic.settings import Settings
from synthetic.task import Examples
from synthetic.tasks import TASKS
from system.errors import UserError
from system.figures import power
from system.progress import progress_bar
from training.jacobian_penalty import JacobianPenalty
from utils.optimizers import Clipping, set_rate
from utils.schedules import Schedule

N_POINTS = 50  # of the course


@dataclass(frozen=True)
class Point:
    """Means since the point before."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainingFigures:
    """What training came to.

    Attributes:
        loss, accuracy: means over the last of the course's points.
        seconds, seconds_a_step: of all updates, and their mean.
        forward_steps, backward_steps: means of the solves; None where nothing was solved.
        course: the way there.
    """

    loss: float
    accuracy: float
    seconds: float
    seconds_a_step: float
    forward_steps: float | None
    backward_steps: float | None
    course: tuple[Point, ...]


def train(model: LanguageModel, settings: Settings, name: str) -> TrainingFigures:
    """Train a new model.

    Args:
        model: it is changed in place.
        settings: of the run.
        name: of the run, in front of the bar.

    Raises:
        UserError: the loss is not finite any more.
    """
    device = next(model.parameters()).device
    optimizer = OPTIMIZERS[settings.optim](model, settings)
    clip = Clipping(model.parameters(), (), settings.clip)
    depths, penalty = training_depth(settings), JacobianPenalty.of(settings)
    solves, course, n_updates = [], _Course(), settings.n_updates
    start = time.perf_counter()
    model.train()
    with progress_bar(n_updates, name) as bar:
        for step, (rate, examples) in enumerate(updates(settings)):
            set_rate(optimizer, rate)
            depth = depths.at(step)
            solves_now = is_equilibrium(model) and not isinstance(depth, Applications)
            charge = penalty.at(step) if solves_now else None
            if charge is not None:
                depth = partial(depth, jacobian_samples=charge.samples)
            result = score(model, to(examples, device), depth)
            loss = result.nll / result.n_counted
            if charge is not None:
                loss = loss + charge.weight * result.solve.jacobian_loss
            optimizer.zero_grad()
            loss.backward()
            clip()
            optimizer.step()
            course.add(result)
            solves += [result.solve] if result.solve is not None else []
            bar.update()
            if (step + 1) * N_POINTS // n_updates > step * N_POINTS // n_updates:
                point = course.point(step + 1)
                bar.show((f"loss {power(point.loss)}", f"accuracy {point.accuracy:.4f}"))
    seconds = time.perf_counter() - start
    return TrainingFigures(
        loss=course.points[-1].loss,
        accuracy=course.points[-1].accuracy,
        seconds=seconds,
        seconds_a_step=seconds / n_updates,
        forward_steps=mean_steps([solve.forward for solve in solves]),
        backward_steps=mean_steps([solve.backward for solve in solves if solve.backward is not None]),
        course=tuple(course.points),
    )


def updates(settings: Settings) -> Iterator[tuple[float, Examples]]:
    """Rate and batch of each update, stage after stage."""
    for stage in settings.stages:
        schedule = Schedule("cosine", stage.lr, stage.warmup_step, stage.max_step)
        task = TASKS[stage.task](stage)
        for step, examples in zip(range(stage.max_step), batches(task, stage), strict=False):
            yield schedule(step), examples


def training_depth(settings: Settings) -> DepthSchedule:
    """What each update does: so many applications, or the shallow stage, then the equilibrium."""
    if settings.n_applications is not None:
        return DepthSchedule(((0, Applications(settings.n_applications)),))
    solves = equilibrium(settings, training=True)
    if settings.pretrain_steps == 0:
        return DepthSchedule(((0, solves),))
    return DepthSchedule(((0, Applications(settings.n_layer)), (settings.pretrain_steps, solves)))


class _Course:
    """Sums on the device, which the host waits for at the points alone."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._sums: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, result: Score) -> None:
        self._sums.append((result.nll.detach(), result.n_right, result.n_counted))

    def point(self, step: int) -> Point:
        nll, n_right, n_counted = (float(sum(parts)) for parts in zip(*self._sums, strict=True))
        self._sums.clear()
        if not math.isfinite(nll):
            raise UserError(f"the loss is {nll} by update {step}: lower --lr, or change the solver's settings")
        self.points.append(Point(step, nll / n_counted, n_right / n_counted))
        return self.points[-1]
