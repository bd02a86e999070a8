"""The settings of a call: those that it names, completed by those of a run or of a model, or by the defaults."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.file import settings_of_file
from config.flags import CommandLine
from config.inheritance import changes, completed, inherited
from config.settings import Settings
from evaluation.model_settings import model_settings
from runs.experiment import SETTINGS_FILE
from runs.saved_model import ModelDescription
from system.errors import UserError
from training.checkpoint import Checkpoint
from training.trainer import ENTRIES


@dataclass(frozen=True)
class Settled:
    """What a call is about.

    Attributes:
        settings: resolved and checked.
        remarks: on them.
        checkpoint: of the run that goes on.
        weights: the file that the model starts from, or that is evaluated; None for new weights and for a run that goes
            on.
        description: of those, where there is one.
    """

    settings: Settings
    remarks: Sequence[str] = ()
    checkpoint: Checkpoint | None = None
    weights: Path | None = None
    description: ModelDescription | None = None


def settled(command: CommandLine, arguments: Sequence[str]) -> Settled:
    """Settle the settings of a command line.

    A run that goes on, and the evaluation of a run, take the run's; weights take those that a file beside them tells of
    the model. Flags that are given come before these, as do the files of --config and --preset, and each change is
    remarked on.

    Raises:
        UserError: they make no sense, alone or with those of the run or the model.
        SystemExit: --help was asked for.
    """
    given = command.given(arguments)
    asked = {**command.of_files(given), **given}
    run, evaluates = asked.get("restart_dir"), asked.get("eval", False)
    if run and asked.get("restart") and not evaluates:
        return _going_on(command, given, run)
    if run and evaluates and not asked.get("load"):
        known = model_settings(command, given, run=run)
        if not known.has_corpus:
            raise UserError(f"--restart_dir {run}: the model comes without its corpus: pass --data FOLDER")
    elif asked.get("load") and not run:
        known = model_settings(command, given, weights=asked["load"], evaluates=evaluates)
    else:
        return Settled(command.resolved(given, command.of_files(given)))
    return Settled(known.settings, known.remarks, weights=known.weights, description=known.description)


def _going_on(command: CommandLine, given: dict[str, Any], run: str) -> Settled:
    checkpoint, faults = Checkpoint.newest(run, ENTRIES)
    before, defaulted = completed(checkpoint.settings, command.flags, command.defaults, run)
    settings = command.resolved(given, {**inherited(before, command.flags), **command.of_files(given)})
    remarks = [
        *faults,
        *defaulted,
        *_not_saved(command, before, given, run),
        *changes(before, settings, checkpoint.step),
    ]
    return Settled(settings, remarks, dataclasses.replace(checkpoint, settings=before))


def _not_saved(command: CommandLine, before: dict[str, Any], given: dict[str, Any], run: str) -> list[str]:
    """A line on settings of the last call that no checkpoint holds, as it has saved none."""
    try:
        last = settings_of_file(str(Path(run, SETTINGS_FILE)), command.flags, command.defaults)
    except UserError:
        return []  # it is going to be written anew
    lost = {name: value for name, value in last.items() if name not in given and before[name] not in (value, None)}
    lost = {name: value for name, value in lost.items() if not command.flags[name].is_place}
    if not lost:
        return []
    return [
        f"note: the last call had {command.typed(lost)}, which no checkpoint holds: pass it again if it is to count"
    ]
