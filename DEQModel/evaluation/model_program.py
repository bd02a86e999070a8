"""What programs that use a trained model share: their command line, and how they come by the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from config.flags import CommandLine
from config.parser import Parser, check_ranges
from data.text_tokens import STANDARD_INPUT
from evaluation.trained_model import OF_THE_USER, TrainedModel
from models.registry import MODELS
from system.flag import Flag, flag, flags_of

Own = TypeVar("Own")


@dataclass(frozen=True)
class ModelSource:
    """Where the model comes from, where it is not a run's folder."""

    load: str | None = flag(None, "a file of weights, in place of RUN", kind=str, is_place=True)
    vocabulary: str | None = flag(
        None, "its words, one a line (default: those of the run, or of the corpus)", kind=str, is_place=True
    )


@dataclass(frozen=True)
class Call(Generic[Own]):
    """What a command line asks for.

    Attributes:
        own: the program's own settings.
        source: where the model comes from.
        places: the arguments that are no flags.
        changed: settings of the model that it names, and their values.
    """

    own: Own
    source: ModelSource
    places: Sequence[str]
    changed: Mapping[str, Any]


@dataclass(frozen=True)
class ModelProgram(Generic[Own]):
    """A program that uses a trained model.

    Args:
        name: as users call it.
        usage: its arguments, flags apart.
        description: what it does.
        own: the class of its own settings.
    """

    name: str
    usage: str
    description: str
    own: type[Own]

    def call(self, arguments: Sequence[str]) -> Call[Own]:
        """Read a command line.

        Raises:
            UserError: a flag that does not exist, or a value that it cannot have.
            SystemExit: --help was asked for.
        """
        parser = self.parser()
        given, places = parser.given(arguments, further=True)
        places = [place for place in places if place != "--"]
        if unknown := [place for place in places if place.startswith("-") and place != STANDARD_INPUT]:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        own, source = (self._of(settings, given) for settings in (self.own, ModelSource))
        check_ranges(vars(own), flags_of(own))
        return Call(own, source, places, {name: given[name] for name in self._model_flags if name in given})

    def load(self, call: Call[Own], run: str | None) -> TrainedModel:
        """The model of a call, from a run's folder where one is given."""
        source = call.source
        return TrainedModel.load(
            self.name, run=run, weights=source.load, vocabulary=source.vocabulary, changed=call.changed
        )

    def parser(self) -> Parser:
        """With the program's own flags, those of the model's place, and those that change the model's settings."""
        of_weights = {name: known for name, known in self._model_flags.items() if known.is_of_weights}
        others = {name: known for name, known in self._model_flags.items() if not known.is_of_weights}
        groups = {
            self.name.removesuffix(".py"): self.own,
            "model": ModelSource,
            "evaluation (default: as the model was evaluated in its run)": _settings("Evaluation", others),
            "of a --load without a description beside it (default: as in training)": _settings("Weights", of_weights),
        }
        parser = Parser(self.name, self.description, groups)
        parser.usage = f"%(prog)s {self.usage} [flags]"
        return parser

    @cached_property
    def _model_flags(self) -> dict[str, Flag]:
        """Settings of models, of all kinds, that a call may name."""
        found = {}
        for spec in MODELS.values():
            command = CommandLine(self.name, spec)
            for name, known in command.flags.items():
                if name in OF_THE_USER or known.is_scored:
                    found[name] = dataclasses.replace(known, kind=known.kind or type(command.defaults[name]))
        return found

    @staticmethod
    def _of(settings: type, given: Mapping[str, Any]) -> Any:
        return settings(**{name: given[name] for name in flags_of(settings) if name in given})


def _settings(name: str, flags: Mapping[str, Flag]) -> type:
    """A class of settings whose values are the model's where they are not given."""
    fields = [
        (name, Any, dataclasses.field(default=False if known.is_switch else None, metadata={"flag": known}))
        for name, known in flags.items()
    ]
    return dataclasses.make_dataclass(name, fields, frozen=True)
