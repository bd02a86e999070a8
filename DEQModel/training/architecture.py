"""Which of a program's models a call is about."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from config.file import read_settings
from config.flags import CommandLine
from config.parser import expand
from runs.experiment import SETTINGS_FILE, WEIGHTS_FILE
from runs.saved_model import ModelDescription
from system.errors import UserError
from system.state_dicts import load_state_dict

TELLING = ("arch", "config", "restart_dir", "load")  # settings that tell, or name a file that does


def chosen(commands: Sequence[CommandLine], arguments: Sequence[str]) -> CommandLine:
    """The command line of the model that --arch names, or the run or the weights are of; else the first.

    Of what cannot be read or understood that command line says so itself.

    Args:
        commands: of the program's models.
        arguments: of the call.

    Raises:
        UserError: --arch names another model than the run or the weights are of.
    """
    if len(commands) == 1:
        return commands[0]
    models = {command.defaults["arch"]: command for command in commands}
    given = _given(commands, arguments)
    told = {**_settings(given.get("config")), **given}
    named, place = told.get("arch"), told.get("restart_dir") or told.get("load")
    known = _model_of_run(told["restart_dir"], commands) if told.get("restart_dir") else None
    if known is None and told.get("load"):
        known = _model_of_weights(told["load"], commands, closely=named is None)
    if known is not None and named in models and models[named] is not known:
        raise UserError(f"--arch {named}, but {place} is of a {known.spec.name}: leave --arch out")
    return models.get(named) or known or commands[0]


def _given(commands: Sequence[CommandLine], arguments: Sequence[str]) -> dict[str, str]:
    """The values of the flags that tell, of a command line that nobody has checked yet."""
    flags = {name: flag for command in commands for name, flag in command.flags.items()}
    names = {flags[name].option(name): name for name in TELLING}
    given = {}
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        with suppress(UserError):  # a beginning that several flags share
            (argument,) = expand([argument], flags)
        option, equals, value = argument.partition("=")
        if option in names:
            given[names[option]] = value if equals else following
    return given


def _settings(path: str | None) -> Mapping[str, Any]:
    """Those of a file, where it can be read."""
    with suppress(UserError):
        return read_settings(path) if path else {}
    return {}


def _model_of_run(folder: str, commands: Sequence[CommandLine]) -> CommandLine | None:
    named = _settings(str(Path(folder, SETTINGS_FILE))).get("arch")
    by_name = [command for command in commands if command.defaults["arch"] == named]
    return by_name[0] if by_name else _described(Path(folder, WEIGHTS_FILE), commands)


def _model_of_weights(path: str, commands: Sequence[CommandLine], *, closely: bool) -> CommandLine | None:
    """By what stands beside them; looked at closely, where nothing does, by the names that they have."""
    if (known := _described(Path(path), commands)) or not closely:
        return known
    with suppress(UserError):
        state = load_state_dict(path)
        return next((command for command in commands if command.spec.weights.recognises(state)), None)
    return None


def _described(weights: Path, commands: Sequence[CommandLine]) -> CommandLine | None:
    with suppress(UserError):
        if description := ModelDescription.beside(weights):
            return next((command for command in commands if command.spec.name == description.model), None)
    return None
