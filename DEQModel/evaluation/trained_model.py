"""A trained model with all that it takes to use it: from a run's folder, or from weights and a vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from config.flags import CommandLine
from config.inheritance import overrides
from config.settings import Settings
from config.words import mistakes_in_flags
from data.corpus import DATASETS, Corpus
from data.vocabulary import Vocab, VocabularyRule
from models.protocol import LanguageModel
from models.registry import MODELS
from runs.experiment import SETTINGS_FILE, VOCABULARY_FILE, WEIGHTS_FILE
from runs.saved_model import ModelDescription, beside, settings_of_description, settings_of_run
from system.errors import UserError
from system.out_of_memory import enough_memory
from system.state_dicts import load_into, load_state_dict

OF_THE_USER = ("cuda", "data", "config")  # beside the settings that a score depends on, what a call may choose


@dataclass(frozen=True)
class TrainedModel:
    """A model to read and write texts with.

    Attributes:
        model: in evaluation mode, on its device.
        vocab: its words.
        rule: how its texts were read.
        settings: the model's, and those of its evaluation; `config.depth.evaluation_depth` makes its depth of them.
        remarks: on the settings, for people.
        weights: the file that it comes from, where there is one.
    """

    model: LanguageModel
    vocab: Vocab
    rule: VocabularyRule
    settings: Settings
    remarks: Sequence[str] = ()
    weights: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @classmethod
    def load(
        cls,
        program: str,
        *,
        run: str | None = None,
        weights: str | None = None,
        vocabulary: str | None = None,
        arguments: Sequence[str] = (),
    ) -> TrainedModel:
        """Read a model.

        Args:
            program: its name, before messages about flags.
            run: a run's folder, or one that has been exported.
            weights: in place of that, a file of weights.
            vocabulary: its words, one a line; None for those of the run.
            arguments: flags that change the settings of evaluation, as `--f_thres 30`, or with `weights` alone give
                the model's.

        Raises:
            UserError: a file is missing or cannot be used, or the flags make no sense; one line.
        """
        file = _weights(run, weights)
        description = ModelDescription.beside(file)
        command = CommandLine(program, _spec(description, file))
        given = _given(command, arguments)
        earlier = _earlier(command, run, file, description)
        earlier, remarks = on_this_machine(earlier, given)
        settings = command.resolved({**given, "eval": True, "load": str(file)}, earlier)
        remarks = [*remarks, *overrides(earlier, settings, _source(run, file))]
        vocab = _vocabulary(run, vocabulary, settings)
        if description:
            description.see_that_it_is_of(vocab, file, vocabulary or f"{run or settings.data}")
        device = torch.device("cuda" if settings.cuda else "cpu")
        model = make_model(command, settings, len(vocab), device, file)
        return cls(model.eval(), vocab, DATASETS[settings.dataset], settings, remarks, file)


def _weights(run: str | None, weights: str | None) -> Path:
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


def _earlier(command: CommandLine, run: str | None, file: Path, description: ModelDescription | None) -> dict[str, Any]:
    if run is not None:
        return settings_of_run(run, command.flags, command.defaults)
    return settings_of_description(description, file, command.flags, command.defaults) if description else {}


def _spec(description: ModelDescription | None, file: Path) -> Any:
    if description is None:
        return next(iter(MODELS.values()))  # files of published models have nothing beside them
    if description.model not in MODELS:
        raise UserError(f"{file} is of a {description.model}, which this program does not know: {', '.join(MODELS)}")
    return MODELS[description.model]


def _given(command: CommandLine, arguments: Sequence[str]) -> dict[str, Any]:
    given = command.given(arguments)
    idle = [command.flags[name].option(name) for name in given if not _is_of_use(name, command)]
    if idle and "config" not in given:
        raise UserError(f"{idle[0]} does nothing here: leave it out")
    return {name: value for name, value in given.items() if _is_of_use(name, command)}


def _is_of_use(name: str, command: CommandLine) -> bool:
    return name in OF_THE_USER or command.flags[name].is_scored


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


def _source(run: str | None, file: Path) -> str:
    return str(Path(run, SETTINGS_FILE)) if run is not None else str(beside(file))


def _vocabulary(run: str | None, vocabulary: str | None, settings: Settings) -> Vocab:
    if vocabulary is not None:
        return Vocab.read(vocabulary)
    if run is not None and Path(run, VOCABULARY_FILE).exists():
        return Vocab.read(Path(run, VOCABULARY_FILE))
    try:
        return Corpus.load(settings.data, settings.dataset).vocab  # of a run that wrote none down
    except UserError as error:
        raise UserError(f"no vocabulary: pass --vocabulary FILE, words one a line; or the corpus ({error})") from error


def make_model(
    command: CommandLine,
    settings: Settings,
    n_token: int,
    device: torch.device,
    weights: str | os.PathLike | None = None,
) -> LanguageModel:
    """A model initialised from the seed, or with the weights of a file.

    Raises:
        UserError: the settings make no model; the file cannot be used or does not match them.
    """
    spec = command.spec
    with mistakes_in_flags(command.flag_names):
        config = spec.configure(settings, n_token)
    widths = [name for name, flag in command.flags.items() if flag.is_width]
    sizes = ", ".join(f"{command.flag_names[name]} {getattr(settings, name)}" for name in widths)
    with enough_memory(f"{sizes}: a model of this size", "lower them"):
        torch.manual_seed(settings.seed)
        model = spec.build(config)
        spec.initialise(model, settings)
        model.to(device)
    if weights:
        with enough_memory(f"{weights}", "make room, or use a machine with more of it"):
            _load_weights(command, model, weights)
    return model


def _load_weights(command: CommandLine, model: LanguageModel, path: str | os.PathLike) -> None:
    """Give a model the weights of a file, of any generation."""
    weights = command.spec.weights
    with mistakes_in_flags(command.flag_names, where=f"{path}: "):
        state = weights.modern(load_state_dict(path))
        weights.check(state, model.config)
    with mistakes_in_flags(command.flag_names):
        load_into(model, state, path)
