"""Which of a program's models a call is about."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from config.file import preset_file, read_settings
from config.flags import CommandLine
from config.parser import expand
from runs.experiment import SETTINGS_FILE, WEIGHTS_FILE
from runs.saved_model import ModelDescription
from system.errors import UserError
from system.state_dicts import load_state_dict

TELLING = ("arch", "config", "preset", "restart_dir", "load")  # settings that tell, or name a file that does


def chosen(commands: Sequence[CommandLine], arguments: Sequence[str]) -> CommandLine:
    """The command line of the model that --arch names, or the run or the weights are of; else the first.

    Of what cannot be read or understood that command line says so itself.

    Args:
        commands: of the program's models.
        arguments: of the call.

    Raises:
        UserError: --arch, --config, --preset, and the run or the weights are not of the same model.
    """
    if len(commands) == 1:
        return commands[0]
    models = {command.defaults["arch"]: command for command in commands}
    given = _given(commands, arguments)
    of_config = _settings(given.get("config"))
    told = {**of_config, **given}
    of_preset = _settings(preset_file(told["preset"])) if told.get("preset") else {}
    named = told.get("arch", of_preset.get("arch"))
    if of_preset.get("arch", named) != named:
        raise UserError(
            f"--preset {told['preset']} is for arch {of_preset['arch']}, not {named}: leave one of them out"
        )
    run, weights = told.get("restart_dir"), told.get("load")
    known = _model_of_run(run, commands) if run else None
    if known is None and weights:
        known = _model_of_weights(weights, commands, closely=named is None)
    if known is not None and named in models and models[named] is not known:
        sources = {"arch": given, "config": of_config, "preset": of_preset}
        flag = next(flag for flag, settings in sources.items() if "arch" in settings)
        asked = f"--arch {named}" if flag == "arch" else f"--{flag} {told[flag]} is for arch {named}"
        raise UserError(f"{asked}, but {run or weights} is of a {known.spec.name}: leave --{flag} out")
    return models.get(named) or known or commands[0]


def _given(commands: Sequence[CommandLine], arguments: Sequence[str]) -> dict[str, str]:
    """The values of the flags that tell, of a command line that nobody has checked yet."""
    flags = {name: flag for command in commands for name, flag in command.flags.items()}
    names = {flags[name].option(name): name for name in TELLING if name in flags}
    given = {}
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        with suppress(UserError):  # a beginning that several flags share
            (argument,) = expand([argument], flags)
        option, equals, value = argument.partition("=")
        if option in names:
            given[names[option]] = value if equals else following
    return given


def _settings(path: str | None) -> Mapping[str, Any]:
    """Those of a file that tell, where it can be read; of a run's not what its call alone was asked for."""
    with suppress(UserError):
        found = read_settings(path) if path else {}
        return {name: found[name] for name in TELLING if name in found and (name == "arch" or path.endswith(".toml"))}
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
