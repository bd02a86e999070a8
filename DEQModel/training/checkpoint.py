"""Everything that a training run needs to go on as if it had never stopped, and its file `checkpoint.pt`."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.atomic_file import sync_folder, write_atomically
from system.checkpoints import portable, read_tensors
from system.errors import UserError

CHECKPOINT_FILE = "checkpoint.pt"
PREVIOUS_FILE = "checkpoint.previous.pt"  # the one before, for when the newest is damaged
UNDER_WAY = "checkpoint.new.pt"
FORMAT = 1  # of the file; raise it when a reader of this one could not make sense of it
REMEDY = "pass the folder of a run that has a sound checkpoint, or start a new run from weights with --load FILE.pkl"


@dataclass(frozen=True)
class TrainingState:
    """A run between two updates. All of it is tensors and plain Python values.

    Attributes:
        settings: of the run, resolved.
        corpus: identity of the vocabulary and the training text.
        model: state dict.
        optimizer: state dict.
        step: updates so far, counted from --start_train_steps.
        epoch: number of passes over the text, this one included.
        position: in the (T, B) stream of training tokens, of the next segment.
        lengths: state of the generator of segment lengths, None where they do not vary.
        memory: for the next segment, the rows of all processes in order; None at the start of an epoch.
        random: states of the generators, by process.
        plateau: of --scheduler dev_perf.
        window: what the next log line is to tell.
        bad_steps: skipped updates up to now, in a row.
        validation_pending: the run was about to validate.
        totals: of the run.
        best: report of the best validation, None before the first.
        best_file: identity of the file with the best model.
        after_shallow: report at the end of the shallow stage.
        log_end: length of the log, bytes.
        path: of the file that it was read from; not in the file.
    """

    settings: dict[str, Any]
    corpus: str
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    epoch: int
    position: int
    lengths: tuple[Any, ...] | None
    memory: Tensor | tuple[Tensor, ...] | None
    random: list[dict[str, Tensor]]
    plateau: dict[str, Any]
    window: dict[str, Any]
    bad_steps: int
    validation_pending: bool
    totals: dict[str, Any]
    best: dict[str, Any] | None
    best_file: str | None
    after_shallow: dict[str, Any] | None
    log_end: int
    path: Path | None = None

    def save(self, folder: Path) -> None:
        """Make this the folder's checkpoint, and what was that its previous one.

        Raises:
            OSError: it cannot be written; the files that were there are as they were.
        """
        folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        new, path = folder / UNDER_WAY, folder / CHECKPOINT_FILE
        content = portable({"format": FORMAT, **{name: getattr(self, name) for name in self._names()}})
        write_atomically(new, partial(torch.save, content))
        if path.exists():
            os.replace(path, folder / PREVIOUS_FILE)
        os.replace(new, path)
        sync_folder(folder)

    @classmethod
    def newest(cls, folder: str | os.PathLike) -> tuple["TrainingState", list[str]]:
        """The newest sound checkpoint of a run's folder, and remarks on those that are not.

        Raises:
            UserError: there is none, or it was written by another version.
        """
        faults = []
        for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
            path = Path(folder, name)
            if not os.path.lexists(path):
                faults.append(f"{path} does not exist")
                continue
            try:
                content = read_tensors(path, "cpu", remedy="it cannot be used")
            except UserError as error:
                faults.append(str(error))
                continue
            state = cls._of(content, path)
            return state, [f"warning: {fault}: going on from {path}, step {state.step}" for fault in faults]
        raise UserError(f"--restart_dir {folder}: no checkpoint to go on from ({'; '.join(faults)}): {REMEDY}")

    @classmethod
    def corpus_of(cls, folder: str | os.PathLike) -> str | None:
        """Identity of the corpus of a run, if its folder tells."""
        try:
            return cls.newest(folder)[0].corpus
        except UserError:
            return None

    @classmethod
    def _of(cls, content: object, path: Path) -> "TrainingState":
        if not isinstance(content, Mapping) or "format" not in content:
            raise UserError(f"{path} is no checkpoint of a training run: {REMEDY}")
        names = cls._names()
        if content["format"] != FORMAT or content.keys() != names | {"format"}:
            raise UserError(
                f"{path} has format {content['format']}, this version reads format {FORMAT}: go on with the version "
                "that wrote it, or start a new run from its weights with --load model_state_dict.pkl"
            )
        return cls(**{name: content[name] for name in names}, path=path)

    @classmethod
    def _names(cls) -> set[str]:
        """Of what is in the file."""
        return {field.name for field in fields(cls)} - {"path"}

    def become_the_newest(self) -> None:
        """Take the place of the checkpoint that could not be read, which must not become the one before the next."""
        if self.path.name == PREVIOUS_FILE:
            with suppress(OSError):  # told of when the next one is written
                os.replace(self.path, self.path.with_name(CHECKPOINT_FILE))
