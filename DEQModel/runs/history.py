"""What a run's folder tells of it: its settings, its results if it has ended, and its curves."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.corpus import DATASETS
from data.measure import BITS_PER_CHARACTER, PERPLEXITY, Measure
from data.vocabulary import Unit
from runs.experiment import LOG_FILE, RESULTS_FILE, SETTINGS_FILE
from system.errors import UserError
from system.json_file import read_json

REMEDY = "pass the folder of a run of the training script"
PROBE = re.compile(r"probe/residual_after_(\d+)$")


@dataclass(frozen=True)
class Curve:
    """Points of a quantity, one a step, in the order of the steps."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, points: Mapping[int, float]) -> "Curve":
        """From the values by step."""
        steps = tuple(sorted(points))
        return cls(steps, tuple(points[step] for step in steps))

    def __bool__(self) -> bool:
        return bool(self.steps)

    def thinned(self, most: int) -> "Curve":
        """At most so many points: means of neighbours, at the last one's step; what is not finite is left out."""
        finite = [point for point in zip(self.steps, self.values, strict=True) if math.isfinite(point[1])]
        size = math.ceil(len(finite) / most) or 1
        blocks = [finite[i : i + size] for i in range(0, len(finite), size)]
        return Curve(
            tuple(block[-1][0] for block in blocks), tuple(fmean(value for _, value in block) for block in blocks)
        )

    @property
    def last(self) -> float | None:
        """The value at the last step."""
        return self.values[-1] if self.values else None


@dataclass(frozen=True)
class History:
    """What became of a run. A curve that it does not have is empty.

    Attributes:
        folder: of the run.
        settings: resolved, by name.
        results: as in results.json; empty where the run has not ended.
        n_parameters: of the model, where the log tells.
        train_loss: nats per token.
        seconds: of training, since the run began.
        tokens_per_second: in training.
        valid_perplexity: at the validations.
        valid_bits: per character, likewise; of a run on characters.
        forward_steps, backward_steps: means over solves, likewise their residuals.
        probe_residual: after the last evaluation of each validation's probe.
    """

    folder: Path
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    n_parameters: int | None
    train_loss: Curve
    seconds: Curve
    tokens_per_second: Curve
    valid_perplexity: Curve
    valid_bits: Curve
    forward_steps: Curve
    backward_steps: Curve
    forward_residual: Curve
    backward_residual: Curve
    probe_residual: Curve

    @classmethod
    def of(cls, folder: Path) -> "History":
        """Read a run's folder; the run may still be at work in it.

        Raises:
            UserError: it is no run's, cannot be read, or has no curves.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} is {'no folder' if folder.exists() else 'not there'}: {REMEDY}")
        settings = settings_of(folder)
        curves = _curves(folder)
        if not curves.get("train/loss"):
            raise UserError(
                f"{folder} has no curves that could be read: wait for the run's first log line, or {REMEDY}"
            )
        results = read_json(folder / RESULTS_FILE, REMEDY) if (folder / RESULTS_FILE).exists() else {}
        named = {
            "train_loss": "train/loss",
            "seconds": "train/seconds",
            "tokens_per_second": "train/tokens_per_second",
            "valid_perplexity": f"valid/{PERPLEXITY.key}",
            "valid_bits": f"valid/{BITS_PER_CHARACTER.key}",
            "forward_steps": "forward/steps",
            "backward_steps": "backward/steps",
            "forward_residual": "forward/residual",
            "backward_residual": "backward/residual",
        }
        drawn = {field: Curve.of(curves.get(name, {})) for field, name in named.items()}
        return cls(folder, settings, results, _n_parameters(folder), **drawn, probe_residual=_probe(curves))

    @property
    def start(self) -> int:
        """The step at which training began."""
        return self._count("start_train_steps")

    @property
    def equilibrium_from(self) -> int | None:
        """The step at which the run went over from its shallow stage to the equilibrium, where it did."""
        change = self._count("pretrain_steps")
        return change if self.start < change < self.train_loss.steps[-1] else None

    @property
    def best_perplexity(self) -> float | None:
        """On valid, of the equilibrium stage where there were validations of it."""
        return self._best(PERPLEXITY, self.valid_perplexity)

    @property
    def best_bits(self) -> float | None:
        """Likewise bits per character; None for a run on words."""
        return self._best(BITS_PER_CHARACTER, self.valid_bits)

    @property
    def unit(self) -> Unit:
        """What its tokens are, words where its settings do not tell."""
        rule = DATASETS.get(str(self.settings.get("dataset")))
        return rule.unit if rule else "word"

    @property
    def best_step(self) -> int | None:
        """The step of the validation that found it, if its curve tells."""
        curve, best = self.valid_perplexity, self.best_perplexity
        found = (step for step, value in zip(curve.steps, curve.values, strict=True) if _is_about(value, best))
        return next(found, None)

    @property
    def n_updates(self) -> int:
        """Updates, skipped ones included."""
        return self.result("training", "updates") or self.train_loss.steps[-1] - self.start

    @property
    def training_seconds(self) -> float | None:
        """What they took."""
        return self.result("training", "seconds") or self.seconds.last

    @property
    def speed(self) -> float | None:
        """Tokens per second, of the whole training or, while that goes on, at the last log line."""
        return self.result("training", "tokens_per_second") or self.tokens_per_second.last

    def seconds_at(self, steps: tuple[int, ...]) -> tuple[float, ...]:
        """Seconds of training until each of these steps."""
        return tuple(np.interp(steps, (self.start, *self.seconds.steps), (0.0, *self.seconds.values)).tolist())

    def _best(self, measure: Measure, curve: Curve) -> float | None:
        first = self.equilibrium_from or 0
        points = [point for point in zip(curve.steps, curve.values, strict=True) if math.isfinite(point[1])]
        seen = [value for step, value in points if step > first] or [value for _, value in points]
        return self.result("valid", measure.key) or min(seen, default=None)

    def _count(self, setting: str) -> int:
        value = self.settings.get(setting, 0)
        return value if isinstance(value, int) else 0

    def result(self, *names: str) -> float | None:
        """A number among the results, by the names that lead to it."""
        found: Any = self.results
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, int | float) else None


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder; older runs have nothing else in their file.

    Raises:
        UserError: the file cannot be read.
    """
    content = read_json(folder / SETTINGS_FILE, REMEDY)
    settings = content.get("settings")
    return settings if isinstance(settings, dict) else content


def _curves(folder: Path) -> dict[str, dict[int, float]]:
    """The points of each curve, by step; the newest of several."""
    board, logger = EventAccumulator(str(folder), size_guidance={"scalars": 0}), logging.getLogger("tensorboard")
    logger.addFilter(_never)  # it would tell of every time that the run has gone on
    try:
        board.Reload()
    except OSError as error:
        raise UserError(f"cannot read the curves in {folder} ({error.strerror or error}): {REMEDY}") from error
    finally:
        logger.removeFilter(_never)
    return {name: {point.step: point.value for point in board.Scalars(name)} for name in board.Tags()["scalars"]}


def _never(record: logging.LogRecord) -> bool:
    return False


def _is_about(value: float, wanted: float | None) -> bool:
    """Whether they are the same but for the single precision of curves."""
    return wanted is not None and math.isclose(value, wanted, rel_tol=1e-6)


def _probe(curves: Mapping[str, Mapping[int, float]]) -> Curve:
    numbered = sorted((int(match[1]), name) for name in curves if (match := PROBE.match(name)))
    return Curve.of({step: value for _, name in numbered for step, value in curves[name].items()})


def _n_parameters(folder: Path) -> int | None:
    try:
        found = re.search(r"([\d,]+) parameters, on ", (folder / LOG_FILE).read_text(errors="replace"))
    except OSError:
        return None
    return int(found[1].replace(",", "")) if found else None
