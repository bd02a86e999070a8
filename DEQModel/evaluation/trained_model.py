"""A trained model with all that it takes to use it: from a run's folder, or from weights and a vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.flags import CommandLine
from config.settings import Settings
from config.words import mistakes_in_flags
from data.corpus import DATASETS, Corpus
from data.vocabulary import Vocab, VocabularyRule
from evaluation.model_settings import model_settings, weights_of
from models.protocol import LanguageModel, ModelSpec
from models.registry import MODELS
from runs.experiment import VOCABULARY_FILE
from runs.saved_model import ModelDescription
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
        command: the command line that knows their flags, and the kind of model.
        remarks: on the settings, for people.
        weights: the file that it comes from, where there is one.
    """

    model: LanguageModel
    vocab: Vocab
    rule: VocabularyRule
    settings: Settings
    command: CommandLine
    remarks: Sequence[str] = ()
    weights: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @property
    def in_words(self) -> str:
        """The settings of the model that its scores depend on."""
        return self.command.model_in_words(self.settings)

    @classmethod
    def load(
        cls,
        program: str,
        *,
        run: str | None = None,
        weights: str | None = None,
        vocabulary: str | None = None,
        changed: Mapping[str, Any] | None = None,
    ) -> TrainedModel:
        """Read a model.

        Args:
            program: its name, before messages about flags.
            run: a run's folder, or one that has been exported.
            weights: in place of that, a file of weights.
            vocabulary: its words, one a line; None for those of the run.
            changed: setting -> value, of those of evaluation, as `f_thres`, or with `weights` alone of the model's.

        Raises:
            UserError: a file is missing or cannot be used, or the flags make no sense; one line.
        """
        spec, state = _recognised(weights_of(run, weights))
        command = CommandLine(program, spec)
        remarks = _seen_to_be_of_use(command, changed or {})
        given = {**(changed or {}), "eval": True, "load": str(weights_of(run, weights))}
        known = model_settings(command, given, run=run, weights=weights)
        settings = known.settings
        if vocabulary is None and run is None and not known.has_corpus:
            raise UserError("no vocabulary: pass --vocabulary FILE, words one a line, as in a run's vocabulary.txt")
        vocab = _vocabulary(run, vocabulary, settings)
        if known.description:
            known.description.see_that_it_is_of(vocab, known.weights, vocabulary or f"{run or settings.data}")
        device = torch.device("cuda" if settings.cuda else "cpu")
        model = make_model(command, settings, len(vocab), device, known.weights, state)
        remarks = (*remarks, *known.remarks)
        return cls(model.eval(), vocab, DATASETS[settings.dataset], settings, command, remarks, known.weights)


def _recognised(weights: Path) -> tuple[ModelSpec, dict[str, Tensor] | None]:
    """What kind of model the weights are of, and what they are where that took reading them."""
    description = ModelDescription.beside(weights)
    if description is None:  # files of published models have nothing beside them
        state = load_state_dict(weights)
        for spec in MODELS.values():
            if spec.weights.recognises(state):
                return spec, state
        known = " or a ".join(MODELS)
        raise UserError(f"{weights} is of no model that this program knows: pass the state dict of a {known}")
    if description.model not in MODELS:
        known = ", ".join(MODELS)
        raise UserError(f"{weights} is of a {description.model}, which this program does not know: it knows {known}")
    return MODELS[description.model], None


def _seen_to_be_of_use(command: CommandLine, changed: Mapping[str, Any]) -> list[str]:
    """Refuses settings that no score depends on; a remark where a file has such."""
    if unknown := sorted(changed.keys() - command.flags.keys()):
        raise UserError(f"a {command.spec.name} has no setting {', '.join(unknown)}: leave it out")
    if idle := [command.flags[name].option(name) for name in changed if not _is_of_use(name, command)]:
        raise UserError(f"{idle[0]} does nothing here: leave it out")
    in_file = [name for name in command.of_files(changed) if not _is_of_use(name, command)]
    return [f"note: of {changed['config']} only what a score depends on is used here"] if in_file else []


def _is_of_use(name: str, command: CommandLine) -> bool:
    return name in OF_THE_USER or command.flags[name].is_scored


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
    state: dict[str, Tensor] | None = None,
) -> LanguageModel:
    """A model initialised from the seed, or with the weights of a file, or its content where that has been read.

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
            _load_weights(command, model, weights, load_state_dict(weights) if state is None else state)
    return model


def _load_weights(
    command: CommandLine, model: LanguageModel, path: str | os.PathLike, state: dict[str, Tensor]
) -> None:
    """Give a model the weights of a file, of any generation."""
    weights = command.spec.weights
    with mistakes_in_flags(command.flag_names, where=f"{path}: "):
        state = weights.modern(state)
        weights.check(state, model.config)
    with mistakes_in_flags(command.flag_names):
        load_into(model, state, path)
