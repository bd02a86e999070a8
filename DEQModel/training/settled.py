"""The settings of a call: those that it names, completed by those of a run or of a model, or by the defaults."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.flags import CommandLine
from config.inheritance import changes, completed, inherited, overrides
from config.settings import Settings
from evaluation.trained_model import on_this_machine
from runs.experiment import SETTINGS_FILE, WEIGHTS_FILE
from runs.saved_model import ModelDescription, beside, settings_of_description, settings_of_run
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
    the model. Flags that are given come before these, and each change is remarked on.

    Raises:
        UserError: they make no sense, alone or with those of the run or the model.
        SystemExit: --help was asked for.
    """
    given = command.given(arguments)
    run, evaluates = given.get("restart_dir"), given.get("eval", False)
    if run and evaluates:
        return _of_run(command, given, run)
    if run and given.get("restart"):
        return _going_on(command, given, run)
    if given.get("load"):
        return _of_weights(command, given, Path(given["load"]))
    return Settled(command.resolved(given))


def _going_on(command: CommandLine, given: dict[str, Any], run: str) -> Settled:
    checkpoint, faults = Checkpoint.newest(run, ENTRIES)
    before, defaulted = completed(checkpoint.settings, command.flags, command.defaults, run)
    settings = command.resolved(given, inherited(before, command.flags))
    remarks = [*faults, *defaulted, *changes(before, settings, checkpoint.step)]
    return Settled(settings, remarks, dataclasses.replace(checkpoint, settings=before))


def _of_run(command: CommandLine, given: dict[str, Any], run: str) -> Settled:
    weights = Path(run, WEIGHTS_FILE)
    description = _description(command, weights)
    earlier, remarks = on_this_machine(settings_of_run(run, command.flags, command.defaults), given)
    if "data" not in {**earlier, **given}:
        raise UserError(f"--restart_dir {run}: the model comes without its corpus: pass --data FOLDER")
    if not earlier:
        remarks.append(f"note: {run} has no {SETTINGS_FILE}: what the flags do not name has its default")
    settings = command.resolved(given, earlier)
    remarks += overrides(earlier, settings, str(Path(run, SETTINGS_FILE)))
    return Settled(settings, remarks, weights=weights, description=description)


def _of_weights(command: CommandLine, given: dict[str, Any], weights: Path) -> Settled:
    description = _description(command, weights)
    if description is None:
        return Settled(command.resolved(given), weights=weights)
    known = settings_of_description(description, weights, command.flags, command.defaults)
    of_model = {field.name for field in dataclasses.fields(command.spec.flags)}
    earlier = {name: value for name, value in known.items() if given.get("eval") or name in of_model}
    settings = command.resolved(given, earlier)
    source = str(beside(weights))
    new = {name: value for name, value in earlier.items() if name not in given and value != command.defaults[name]}
    remarks = [f"note: from {source}: {command.typed(new)}"] if new else []
    remarks += overrides(earlier, settings, source)
    return Settled(settings, remarks, weights=weights, description=description)


def _description(command: CommandLine, weights: Path) -> ModelDescription | None:
    found = ModelDescription.beside(weights)
    if found and found.model != command.spec.name:
        raise UserError(
            f"{weights} is of a {found.model}, and {command.program} is for a {command.spec.name}: call the program of "
            "that model"
        )
    return found
