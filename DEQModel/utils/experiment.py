"""The record of a run: its folder, its log, its TensorBoard curves, its settings and results as JSON."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from utils.errors import UserError
from utils.progress import LostScreenError, has_bar, say
from utils.settings import NO_NAME, Settings

LOG_FILE = "log.txt"
SETTINGS_FILE = "settings.json"
RESULTS_FILE = "results.json"
SWEEP_FILE = "sweep.json"
WEIGHTS_FILE = "model_state_dict.pkl"


def make_run_folder(settings: Settings) -> Path:
    """A new folder `<work_dir>deq-<dataset>/<timestamp or name>`, with -2, -3, … appended where that exists.

    The folder is created in one atomic step, so that two runs never share one, however close they start.

    Raises:
        UserError: the folder cannot be created.
    """
    name = time.strftime("%Y%m%d-%H%M%S") if settings.name == NO_NAME else settings.name
    parent = Path(f"{settings.work_dir}deq-{settings.dataset}")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise UserError(
            f"--work_dir {settings.work_dir}: cannot create a run folder in {parent} ({error.strerror}): "
            "pass a place that you may write to"
        ) from error
    raise AssertionError("count() does not end")


class Experiment:
    """Where a run's messages, curves and results go; closes its files when left as a context.

    Args:
        settings: of the run; with `debug` nothing is written to disk, and `folder` is None.
    """

    def __init__(self, settings: Settings):
        self.folder = None if settings.debug else make_run_folder(settings)
        self._log = self._board = None
        if self.folder is None:
            return
        # Imported here: it takes a second or two, which --help, --eval and --debug need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self._log = open(self.folder / LOG_FILE, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._writer = SummaryWriter
        self._board = SummaryWriter(str(self.folder))
        options = dataclasses.asdict(settings)
        self._write_json(SETTINGS_FILE, options)
        table = "\n".join(f"| {name} | {value} |" for name, value in options.items())
        self._board.add_text("settings", f"| setting | value |\n|---|---|\n{table}")

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._log is not None:
            self._log.write(f"ended by {kind.__name__}: {error}\n")
        for file in (self._log, self._board):
            if file is not None:
                file.close()

    def log(self, text: str, *, routine: bool = False) -> None:
        """Write a line to the log and the screen; where there is a log, the run goes on when the screen is lost.

        Args:
            routine: the line repeats what the progress bar shows, and is left off a terminal that has one.

        Raises:
            LostScreenError: the screen is lost and there is no log.
        """
        if self._log is not None:
            self._log.write(text + "\n")
        if routine and has_bar():
            return
        try:
            say(text)
        except LostScreenError as error:
            if self._log is None:
                raise
            self._log.write(f"{error}; the run goes on\n")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def curve(self, name: str, values: Sequence[float], label: str) -> None:
        """Write a whole curve, its points numbered from 1: one line, with this label, in the chart `name`.

        TensorBoard overlays curves that belong to different folders, so each gets its own, `<name>/<label>`.
        """
        if self._board is not None:
            with self._writer(str(self.folder / name / label)) as board:
                for number, value in enumerate(values, start=1):
                    board.add_scalar(name, value, number)

    def results(self, results: Mapping[str, Any], name: str = RESULTS_FILE) -> None:
        """Write results, for programs to read."""
        if self.folder is not None:
            self._write_json(name, results)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        half_made = self.folder / f"{name}.part"
        half_made.write_text(json.dumps(_valid_json(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(half_made, self.folder / name)


def _valid_json(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _valid_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_valid_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
