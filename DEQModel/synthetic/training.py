"""The training loop of the synthetic tasks: it is short, and keeps nothing but its figures."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from config.depth import equilibrium, stages
from models.protocol import LanguageModel
from modules.depth import AsBuilt, DepthSchedule
from modules.deq import DEQModule
from modules.report import SolveInfo
from synthetic.examples import FOR_TRAINING, batches, generator_of, to
from synthetic.scoring import Score, mean, score
from synthetic.settings import DEQ_MODELS, Settings
from synthetic.task import Examples
from synthetic.tasks import TASKS
from system.errors import UserError
from system.figures import power
from system.progress import progress_bar
from training.jacobian_penalty import JacobianPenalty
from training.optimizer import named_optimizer
from utils.optimizers import Clipping, set_rate
from utils.schedules import Schedule

N_POINTS = 50  # of the course


@dataclass(frozen=True)
class Point:
    """Means since the point before; `seconds` of training so far, which older records do not tell."""

    step: int
    loss: float
    accuracy: float
    seconds: float | None = field(default=None, compare=False)  # runs of the same command are equal but for it


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


class Training:
    """Trains a new model, stage after stage.

    Args:
        model: it is changed in place.
        settings: of the run.
    """

    def __init__(self, model: LanguageModel, settings: Settings):
        self.model = model
        self.device = next(model.parameters()).device
        options = {"betas": (0.9, settings.beta2)} if settings.optim == "Adam" else {}
        self.optimizer = named_optimizer(settings.optim, model, settings.lr, settings.adam_ratio, **options)
        self.clip = Clipping(model.parameters(), (), settings.clip)
        self.depths, self.penalty = training_depth(settings), JacobianPenalty.of(settings)
        self.n_updates, self.step, self.seconds = settings.n_updates, 0, 0.0
        self.course = _Course()
        self.generator = generator_of(FOR_TRAINING, settings.seed)
        self.forward_steps: list[int] = []
        self.backward_steps: list[int] = []

    def run(self, stage: Settings, name: str) -> None:
        """The updates of a stage; `name` stands in front of the bar.

        Raises:
            UserError: the loss is not finite any more.
        """
        schedule = Schedule(stage.scheduler, stage.lr, stage.warmup_step, stage.max_step)
        examples = batches(TASKS[stage.task](stage), stage, self.generator)
        start = time.perf_counter()
        self.model.train()
        with progress_bar(stage.max_step, name) as bar:
            for step, batch in zip(range(stage.max_step), examples, strict=False):
                set_rate(self.optimizer, schedule(step))
                self._update(to(batch, self.device))
                bar.update()
                if self.step * N_POINTS // self.n_updates > (self.step - 1) * N_POINTS // self.n_updates:
                    point = self.course.point(self.step, self.seconds + time.perf_counter() - start)
                    bar.show((f"loss {power(point.loss)}", f"accuracy {point.accuracy:.4f}"))
        self.seconds += time.perf_counter() - start

    def _update(self, batch: Examples) -> None:
        depth = self.depths.at(self.step)
        charge = self.penalty.at(self.step) if isinstance(depth, DEQModule) else None
        if charge is not None:
            depth = partial(depth, jacobian_samples=charge.samples)
        result = score(self.model, batch, depth)
        loss = result.nll / result.n_counted.clamp(min=1)  # of a batch without any nothing is learned
        if charge is not None:
            loss = loss + charge.weight * result.solve.jacobian_loss
        self.optimizer.zero_grad()
        loss.backward()
        self.clip()
        self.optimizer.step()
        self.course.add(result)
        self._note(result.solve)
        self.step += 1

    def _note(self, solve: SolveInfo | None) -> None:
        """Keep the counts alone: a solve's report holds on to tensors."""
        if solve is None:
            return
        self.forward_steps.append(solve.forward.n_steps)
        if solve.backward is not None:
            self.backward_steps.append(solve.backward.n_steps)

    def figures(self) -> TrainingFigures:
        """What it came to."""
        last = self.course.points[-1]
        return TrainingFigures(
            loss=last.loss,
            accuracy=last.accuracy,
            seconds=self.seconds,
            seconds_a_step=self.seconds / self.step,
            forward_steps=mean(self.forward_steps),
            backward_steps=mean(self.backward_steps),
            course=tuple(self.course.points),
        )


def training_depth(settings: Settings) -> DepthSchedule:
    """What each update does: so many applications, or the shallow stage, then the equilibrium."""
    if settings.model not in DEQ_MODELS:
        return DepthSchedule(((0, AsBuilt()),))
    return stages(settings, equilibrium(settings, training=True))


class _Course:
    """Sums on the device, which the host waits for at the points alone."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._sums: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, result: Score) -> None:
        self._sums.append((result.nll.detach(), result.n_right, result.n_counted))

    def point(self, step: int, seconds: float) -> Point:
        nll, n_right, n_counted = (float(sum(parts)) for parts in zip(*self._sums, strict=True))
        self._sums.clear()
        if not math.isfinite(nll):
            raise UserError(f"the loss is {nll} by update {step}: lower --lr, or change the solver's settings")
        self.points.append(Point(step, nll / max(n_counted, 1), n_right / max(n_counted, 1), seconds))
        return self.points[-1]
