"""The record of a call: opened where it belongs, and whole at the end."""

from collections.abc import Mapping
from pathlib import Path

import torch

from config.flags import CommandLine
from runs.environment import environment
from runs.experiment import Experiment
from system.distributed import World
from system.errors import UserError
from training.settled import Settled


def open_record(command: CommandLine, call: Settled, world: World, device: torch.device) -> Experiment:
    """A new record, or that of the run which goes on.

    Raises:
        UserError: its folder cannot be written, or belongs to another process.
    """
    silent = not world.is_first
    about = {"model": command.spec.name, "environment": {} if silent else environment(device, world.size)}
    if call.checkpoint is None:
        return Experiment(call.settings, about=about, silent=silent)
    return Experiment(
        call.settings,
        about=about,
        folder=Path(call.settings.restart_dir),
        log_end=call.checkpoint.log_end,
        before_cut=call.checkpoint.see_that_it_is_still_there,
        step=call.checkpoint.step,
        silent=silent,
    )


def see_that_all_is_written(
    experiment: Experiment, world: World, remedy: str, *, further: Mapping[str, str] | None = None
) -> None:
    """Try once more to write what of a run's record could not be written.

    Args:
        experiment: the record.
        world: the processes, all of which take part.
        remedy: the end of the message.
        further: more files of the run that could not be written, and why.

    Raises:
        UserError: some files are missing all the same.
    """
    missing = {**experiment.unwritten(), **(further or {})}
    files = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
    if text := world.of_first(files and f"{experiment.folder}: {files} could not be written, nor at a second try"):
        raise UserError(f"{text}: make room or mend the folder, then {remedy}")
