"""A run on disk: its settings and figures, a JSON file that is written when all is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.file import typed_settings
from config.parser import check_ranges
from config.stages import EQUILIBRIUM
from synthetic.scoring import Trial
from synthetic.settings import RecordSettings, Settings, completed
from synthetic.training import Point, TrainingFigures
from system.errors import UserError
from system.flag import flags_of
from system.json_file import read_json, write_json

OF_THE_CALL = {*flags_of(RecordSettings), "cuda"}  # settings that change no figure but times


@dataclass(frozen=True)
class Record:
    """What is known of a finished run.

    Attributes:
        settings: by name, without those of the call.
        parameters: of the model.
        training, tests: the figures.
        peak_memory: bytes, by kind.
        body: parameters outside of embedding and softmax; older records do not tell.
    """

    settings: Mapping[str, Any]
    parameters: int
    training: TrainingFigures
    tests: tuple[Trial, ...]
    peak_memory: Mapping[str, int]
    body: int | None = None

    def write(self, path: Path) -> None:
        """Put it on disk.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, dataclasses.asdict(self))
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror or error}): pass another --out") from error

    @classmethod
    def read(cls, path: Path) -> Record:
        """From disk.

        Raises:
            UserError: it cannot be read.
        """
        remedy = "move it away, and train that run again"
        content = read_json(path, remedy)
        try:
            training = dict(content["training"])
            course = tuple(_numbers(Point, point) for point in training.pop("course"))
            record = cls(
                settings=recorded(_settings(content["settings"], path)),
                parameters=_number("parameters", content["parameters"]),
                training=_numbers(TrainingFigures, training, course=course),
                tests=tuple(_numbers(Trial, _with_nan(test)) for test in content["tests"]),
                peak_memory={kind: _number(kind, size) for kind, size in content["peak_memory"].items()},
                body=_number("body", content.get("body"), may_lack=True),
            )
            if record.settings["p"] not in [test.p for test in record.tests] or "host" not in record.peak_memory:
                raise ValueError("a figure is missing")
            return record
        except (AttributeError, LookupError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{path} is no record of a run ({error}): {remedy}") from error


def check_place(out: str) -> None:
    """Refuse a folder for records that cannot be made or written to, before anything is trained.

    Raises:
        UserError: with the remedy.
    """
    there = next(place for place in (Path(out), *Path(out).absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out {out}: cannot write to {there}: pass another --out")


def _settings(content: Mapping[str, Any], path: Path) -> Settings:
    """Those of a record; what an older program did not know is as usual."""
    flags, defaults = flags_of(Settings), {field.name: field.default for field in dataclasses.fields(Settings)}
    settings = completed(typed_settings(content, str(path), flags, defaults))
    check_ranges(dataclasses.asdict(settings), flags)
    return settings


def _numbers(kind: type, content: Mapping[str, Any], **others: Any) -> Any:
    """A dataclass of numbers; those may lack that its types say so of."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    values = {name: _number(name, value, may_lack="None" in types[name]) for name, value in content.items()}
    return kind(**values, **others)


def _number(name: str, value: object, *, may_lack: bool = False) -> Any:
    if not (may_lack and value is None) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{name} is {value!r}")
    return value


def _with_nan(test: Mapping[str, Any]) -> dict[str, Any]:
    """A test's loss, and the residual of its solves, where JSON has null because they were not finite."""
    numbers = {"loss"} if test["steps"] is None else {"loss", "residual"}
    return {name: math.nan if value is None and name in numbers else value for name, value in test.items()}


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings that a run's figures depend on, as JSON has them."""
    values = {name: value for name, value in dataclasses.asdict(settings).items() if name not in OF_THE_CALL}
    return json.loads(json.dumps(values))


def place_of(settings: Settings) -> Path:
    """The file of a run; runs with other settings have others."""
    digest = hashlib.sha256(json.dumps(recorded(settings), sort_keys=True).encode()).hexdigest()[:10]
    return Path(settings.out, f"{name_of(settings).replace(' ', '-')}-{digest}.json")


def name_of(settings: Settings) -> str:
    """A run in a few words."""
    hops = f" p {settings.p}" if settings.task == "p_hop" else ""
    return f"{settings.task}{hops} {model_in_words(vars(settings))} T {settings.seq_len} seed {settings.seed}"


def model_in_words(settings: Mapping[str, Any]) -> str:
    """The model, and how often its cell is applied where that is a number."""
    depth = settings["depth"]
    return settings["model"] + (f" x{depth}" if depth != EQUILIBRIUM else "")
