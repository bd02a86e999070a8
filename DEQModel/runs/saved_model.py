"""What the weights in a file do not show of their model, in a file beside it: model_state_dict.settings.json."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from config.file import settings_of_file, typed_settings
from config.run_settings import IN_ITS_FOLDER
from config.settings import Settings
from config.stages import EQUILIBRIUM
from data.vocabulary import Vocab
from runs.experiment import RESULTS_FILE, SETTINGS_FILE, WEIGHTS_FILE
from system.errors import UserError
from system.flag import Flag, flags_of
from system.json_file import read_json, write_json
from system.tensor_files import archive_signature

FORMAT = 1  # of the file; raise it when a reader of this one could not make sense of it
MEND = "mend it, or go on with the run, which writes it anew"
DEPTH = ("depth", "pretrain_steps", "start_train_steps", "eval_n_layer")  # how deep --eval goes
KINDS = {"model": str, "settings": dict, "n_words": int, "vocabulary": str}


@dataclass(frozen=True)
class ModelDescription:
    """The settings that what a model scores depends on, and its vocabulary.

    Attributes:
        model: its kind, a key of `models.registry.MODELS`.
        settings: name -> value of those whose flags are scored.
        n_words: V.
        vocabulary: identity of it.
        weights: signature of the file that they are in, None where that has none; the two are written one after the
            other.
    """

    model: str
    settings: Mapping[str, Any]
    n_words: int
    vocabulary: str
    weights: str | None = None

    @classmethod
    def of(cls, model: str, settings: Settings, vocab: Vocab, shallow: int | None) -> "ModelDescription":
        """Of a model that has been trained.

        Args:
            model: its kind.
            settings: of its run.
            vocab: of its corpus.
            shallow: applications of the cell that it was trained for; None for the equilibrium.
        """
        own = {name: getattr(settings, name) for name, flag in flags_of(settings).items() if flag.is_scored}
        return cls(model, {**own, **depth_settings(shallow, vars(settings))}, len(vocab), vocab.identity)

    def write(self, weights: str | os.PathLike) -> None:
        """Write it beside the weights.

        Raises:
            OSError: the file cannot be written.
        """
        signed = replace(self, weights=archive_signature(weights))
        write_json(beside(weights), {"format": FORMAT, **asdict(signed)})

    @classmethod
    def beside(cls, weights: str | os.PathLike) -> "ModelDescription | None":
        """What stands beside the weights; None where nothing does.

        Raises:
            UserError: it cannot be read.
        """
        path = beside(weights)
        if not path.exists():
            return None
        remedy = "copy both files again, or remove this one and pass the model's settings as flags"
        content = read_json(path, f"it describes the model beside it; {remedy}")
        named = {entry.name: content.get(entry.name) for entry in fields(cls)}
        if content.get("format") != FORMAT or not all(isinstance(named[name], kind) for name, kind in KINDS.items()):
            raise UserError(f"{path} is no description of the model beside it: {remedy}")
        if named["weights"] is not None and named["weights"] != archive_signature(weights):
            raise UserError(
                f"{path} is of other weights than {weights}, as when a run was cut off between the two: go on with "
                f"that run, or {remedy}"
            )
        return cls(**named)

    def has_settings_of(self, other: "ModelDescription") -> bool:
        """Whether two scores depend on the same settings; those of a file have lists for tuples."""
        return _plain(self.settings) == _plain(other.settings)

    def see_that_it_is_of(self, vocab: Vocab, weights: str | os.PathLike, source: str) -> None:
        """Compare a vocabulary with the model's.

        Args:
            vocab: the vocabulary.
            weights: the model's file, for the message.
            source: where the vocabulary comes from, likewise.

        Raises:
            UserError: it is another one.
        """
        if vocab.identity != self.vocabulary:
            raise UserError(
                f"{source} has other words ({len(vocab)}) than the model in {weights} was trained with "
                f"({self.n_words}): pass the texts or the vocabulary that it was trained with"
            )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def beside(weights: str | os.PathLike) -> Path:
    """The file that describes the model of a file of weights."""
    return Path(weights).with_suffix(".settings.json")


def depth_settings(shallow: int | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with which --eval goes as deep as a model was trained for; none where that is how it is built.

    Args:
        shallow: applications of the cell that it was trained for; None for the equilibrium.
        settings: of its run.
    """
    if "pretrain_steps" not in settings:
        return {}
    if shallow is None:
        return {"depth": EQUILIBRIUM, "pretrain_steps": 0, "start_train_steps": 0}
    if settings.get("depth", EQUILIBRIUM) != EQUILIBRIUM:
        return {"depth": str(shallow), "pretrain_steps": 0, "start_train_steps": 0}
    return {
        "depth": EQUILIBRIUM,
        "pretrain_steps": max(settings["pretrain_steps"], 1),
        "start_train_steps": 0,
        "eval_n_layer": shallow,
    }


def settings_of_run(
    folder: str | os.PathLike, flags: Mapping[str, Flag], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The settings with which the model in a run's folder is evaluated, and a line where its files contradict.

    They are the run's, at the depth that the model was trained for, and without those of its place.

    Args:
        folder: of the run.
        flags, defaults: of the program.

    Raises:
        UserError: what they are in cannot be read, or this program does not know them.
    """
    path = Path(folder, SETTINGS_FILE)
    found = settings_of_file(str(path), flags, defaults, MEND) if path.exists() else {}
    found = {name: value for name, value in found.items() if flags[name].fixed != IN_ITS_FOLDER}
    if description := ModelDescription.beside(Path(folder, WEIGHTS_FILE)):
        own = settings_of_description(description, beside(Path(folder, WEIGHTS_FILE)), flags, defaults)
        return {**found, **own}, _contradictions(found, own, flags, folder)
    if not found:
        return {}, []
    known = {**defaults, **found}
    return {**found, **depth_settings(_shallow_of_older_run(Path(folder), found), known)}, []


def _contradictions(
    of_run: Mapping[str, Any], of_model: Mapping[str, Any], flags: Mapping[str, Flag], folder: str | os.PathLike
) -> list[str]:
    # Its depth goes by what the model came to, not by what the run went through.
    others = [name for name, value in of_run.items() if name in of_model and of_model[name] != value]
    told = [f"{flags[name].option(name)} {of_model[name]}, not {of_run[name]}" for name in others if name not in DEPTH]
    if not told:
        return []
    return [f"warning: the model in {folder} was found with {'; '.join(told)} as {SETTINGS_FILE} has it"]


def settings_of_description(
    description: ModelDescription, place: str | os.PathLike, flags: Mapping[str, Flag], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a description, as this program takes them.

    Raises:
        UserError: it does not know them.
    """
    return typed_settings(description.settings, str(place), flags, defaults)


def _shallow_of_older_run(folder: Path, settings: Mapping[str, Any]) -> int | None:
    """How deep the model of a run goes that wrote no description: by its results, else by its stages."""
    try:
        return read_json(folder / RESULTS_FILE, "")["valid"]["shallow"]
    except (UserError, TypeError, LookupError):
        whole_run = settings.get("pretrain_steps", 0) >= settings.get("max_step", 1)
        return settings.get("n_layer") if whole_run else None
