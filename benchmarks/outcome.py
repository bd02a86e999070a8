"""What a finished run came to, whichever program made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.measure import MEASURES
from runs.history import History
from synthetic.record import Record
from synthetic.table import main_test


@dataclass(frozen=True)
class Course:
    """The way there.

    Attributes:
        measure: what the values are.
        updates: after which they were found.
        seconds: of training until then; empty where nobody knows.
        values: all finite.
    """

    measure: str
    updates: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """Figures of a finished run. None is what it does not have, or does not tell.

    Attributes:
        parameters, body: of the model, all of them and those outside of embedding and softmax.
        scores: measure -> figure on the test set. The first is what systems are ranked by: the lower, the better.
        seconds: of all updates; ms_a_step: of one, on average.
        peak_memory: bytes, of the device where that was not the host.
        forward_steps, backward_steps: of the solver, in training: of a language model at the last log line, of a
            synthetic task on average.
        residual: of the solves in the test, on average.
        course: of validation, or of the training loss of a synthetic task.
    """

    parameters: int | None
    body: int | None
    scores: Mapping[str, float]
    seconds: float
    ms_a_step: float
    peak_memory: float
    forward_steps: float | None
    backward_steps: float | None
    residual: float | None
    course: Course


def of_language_model(results: Path) -> Outcome:
    """Of the run whose results.json this is.

    Raises:
        UserError: its folder cannot be read.
    """
    run = History.of(results.parent)
    measure = MEASURES[run.unit]
    seconds, valid = _number(run.training_seconds), run.valid_perplexity
    points = {step: value for step, value in zip(valid.steps, valid.values, strict=True) if math.isfinite(value)}
    return Outcome(
        parameters=run.n_parameters,
        body=run.n_body,
        scores={measure.name: _number(run.result("test", measure.key))},
        seconds=seconds,
        ms_a_step=1000 * seconds / max(run.n_updates, 1),
        peak_memory=_number(run.result("peak_memory_bytes", "device") or run.result("peak_memory_bytes", "host")),
        forward_steps=run.forward_steps.last,
        backward_steps=run.backward_steps.last,
        residual=run.result("test", "residual"),
        course=Course(
            f"{measure.name} on valid",
            tuple(points),
            run.seconds_at(tuple(points)) if run.seconds else (),
            tuple(measure.of(math.log(value)) for value in points.values()),
        ),
    )


def of_synthetic_task(record: Path) -> Outcome:
    """Of the run whose record this is.

    Raises:
        UserError: it cannot be read.
    """
    run = Record.read(record)
    training, test = run.training, main_test(run)
    times = [point.seconds for point in training.course]
    return Outcome(
        parameters=run.parameters,
        body=run.body,
        scores={"loss": test.loss, "accuracy": test.accuracy},
        seconds=training.seconds,
        ms_a_step=1000 * training.seconds_a_step,
        peak_memory=run.peak_memory.get("device", run.peak_memory["host"]),
        forward_steps=training.forward_steps,
        backward_steps=training.backward_steps,
        residual=test.residual,
        course=Course(
            "training loss",
            tuple(point.step for point in training.course),
            () if None in times else tuple(times),
            tuple(point.loss for point in training.course),
        ),
    )


def _number(value: float | None) -> float:
    """NaN for what a file holds as null, as it was not finite."""
    return math.nan if value is None else value
