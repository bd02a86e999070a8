"""The settings under which a trained model is used: those of its run or its file, with what a call changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from config.flags import CommandLine
from config.inheritance import overrides
from config.settings import Settings
from runs.experiment import SETTINGS_FILE, WEIGHTS_FILE
from runs.saved_model import ModelDescription, beside, settings_of_description, settings_of_run
from system.errors import UserError


@dataclass(frozen=True)
class ModelSettings:
    """What is known of a trained model before it is read.

    Attributes:
        weights: its file.
        description: what stands beside that, None for nothing.
        settings: resolved and checked.
        remarks: on them, for people.
        has_corpus: whether the call or the run names a corpus.
    """

    weights: Path
    description: ModelDescription | None
    settings: Settings
    remarks: list[str]
    has_corpus: bool


def weights_of(run: str | None, weights: str | None) -> Path:
    """The file of the weights of a run's folder, or the one that is named.

    Raises:
        UserError: none is named, or both are; the folder is not there or holds none.
    """
    if run is None and weights is None:
        raise UserError("no model: pass the folder of a run, or --load FILE.pkl")
    if run is not None and weights is not None:
        raise UserError("two models: pass the folder of a run or --load FILE.pkl, not both")
    if weights is not None:
        return Path(weights)
    if not Path(run).is_dir():
        raise UserError(f"{run}: there is no such folder; pass that of a run, or of an exported model")
    if not Path(run, WEIGHTS_FILE).exists():
        raise UserError(f"{run} holds no {WEIGHTS_FILE}: pass the folder of a run that has validated its model")
    return Path(run, WEIGHTS_FILE)


def model_settings(
    command: CommandLine,
    given: Mapping[str, Any],
    *,
    run: str | None = None,
    weights: str | None = None,
    evaluates: bool = True,
) -> ModelSettings:
    """Settle them: defaults, then the run's or what stands beside the weights, then --preset, --config, and flags.

    Args:
        command: the program's command line.
        given: the settings that it names.
        run: the folder of a run.
        weights: in place of that, a file of weights.
        evaluates: else a new run starts from the weights, and takes the model alone.

    Raises:
        UserError: files cannot be read; the settings make no sense; the weights are of another kind of model, or were
            made for other settings.
    """
    path = weights_of(run, weights)
    description = ModelDescription.beside(path)
    if description and description.model != command.spec.name:
        raise UserError(
            f"{path} is of a {description.model}, and {command.program} is for a {command.spec.name}: call the program "
            "of that model"
        )
    if run is not None:
        (earlier, remarks), source = settings_of_run(run, command.flags, command.defaults), Path(run, SETTINGS_FILE)
    else:
        remarks = []
        known = settings_of_description(description, path, command.flags, command.defaults) if description else {}
        of_model = {field.name for field in dataclasses.fields(command.spec.flags)}
        earlier = {name: value for name, value in known.items() if evaluates or name in of_model}
        source = beside(path)
    remarks += _origin(command, run, earlier, given, source)
    if evaluates:
        earlier, more = on_this_machine(earlier, given)
        remarks += more
    of_files = command.of_files(given)
    settings = command.resolved(given, {**earlier, **of_files})
    remarks += overrides(earlier, settings, {*of_files, *given}, str(source))
    return ModelSettings(path, description, settings, remarks, has_corpus="data" in {*earlier, *of_files, *given})


def _origin(
    command: CommandLine, run: str | None, earlier: Mapping[str, Any], given: Mapping[str, Any], source: Path
) -> list[str]:
    if run is not None:
        missing = f"note: {run} has no {SETTINGS_FILE}: what the flags do not name has its default"
        return [] if earlier else [missing]
    new = {name: value for name, value in earlier.items() if name not in given and value != command.defaults[name]}
    return [f"note: from {source}: {command.typed(new)}"] if new else []


def on_this_machine(earlier: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A run's settings for an evaluation where there may be other devices, and remarks on what that changes.

    Args:
        earlier: the run's settings.
        given: those of the call.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kept = {name: value for name, value in earlier.items() if name != "gpu0_bsz"}  # evaluation shares rows out evenly
    if n_gpus < 2:
        kept.pop("multi_gpu", None)
    if n_gpus == 0 and kept.pop("cuda", False) and "cuda" not in given:
        return kept, ["note: the run had --cuda; PyTorch sees no GPU here, so this is computed on the CPU"]
    return kept, []
