"""Everything that a training run needs to go on as if it had never stopped: its parts, and its file `checkpoint.pt`."""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from system.atomic_file import sync_folder
from system.errors import UserError
from system.out_of_memory import is_out_of_memory
from system.tensor_files import archive_signature, check_archive, read_tensors, write_tensors

CHECKPOINT_FILE = "checkpoint.pt"
PREVIOUS_FILE = "checkpoint.previous.pt"  # one from before, for when the newest is damaged or its weights are ruined
UNDER_WAY = "checkpoint.new.pt"
FORMAT = 1  # of the file; raise it when a reader of this one could not make sense of it
HEADER = ("format", "settings", "corpus", "step", "log_end")  # what is read before all parts are there
ADDED = ("annealing", "average")  # entries that older programs did not write: their parts do without
REMEDY = "pass the folder of a run that has a sound checkpoint, or start a new run from weights with --load FILE.pkl"


class Part(Protocol):
    """Something of a run that must survive. It saves and restores itself.

    Attributes:
        ENTRIES: names of its entries in a checkpoint.
    """

    ENTRIES: tuple[str, ...]

    def state(self) -> Mapping[str, Any]:
        """Its entries of the checkpoint, tensors and plain values. All processes call this, in the same order."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's entries, all parts' and the header's."""


def write_checkpoint(content: Mapping[str, Any], folder: Path, *, keep: bool) -> None:
    """Make this the folder's checkpoint.

    Args:
        content: its entries.
        folder: of the run.
        keep: what was the checkpoint becomes the previous one; else that stays the one it is.

    Raises:
        OSError: it cannot be written; the files that were there are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
    new, path = folder / UNDER_WAY, folder / CHECKPOINT_FILE
    write_tensors({"format": FORMAT, **content}, new)
    if keep and path.is_file():
        os.replace(path, folder / PREVIOUS_FILE)
    os.replace(new, path)
    sync_folder(folder)


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint of a run, of which only the header has been read.

    Attributes:
        path: its file.
        settings: of the run, resolved.
        corpus: identity of the vocabulary and the texts; of an older program, of valid and test not.
        step: updates so far, counted from --start_train_steps.
        log_end: length of the log, bytes.
        signature: of the file, to know it again.
    """

    path: Path
    settings: Mapping[str, Any]
    corpus: str
    step: int
    log_end: int
    signature: str | None

    @classmethod
    def newest(cls, folder: str | os.PathLike, entries: Collection[str]) -> tuple["Checkpoint", list[str]]:
        """The newest sound checkpoint of a run's folder, and remarks on those that are not.

        Args:
            folder: of the run.
            entries: that the parts of a run have in a checkpoint.

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
                signature, content = _header(path)
            except UserError as error:
                faults.append(str(error))
                continue
            checkpoint = cls._of(content, path, entries, signature)
            return checkpoint, [f"warning: {fault}: going on from {path}, step {checkpoint.step}" for fault in faults]
        raise UserError(f"--restart_dir {folder}: no checkpoint to go on from ({'; '.join(faults)}): {REMEDY}")

    @classmethod
    def previous(cls, folder: Path, entries: Collection[str]) -> "Checkpoint | None":
        """The checkpoint before the newest, if there is a sound one; arguments as for `newest`."""
        path = folder / PREVIOUS_FILE
        try:
            signature, content = _header(path)
            return cls._of(content, path, entries, signature)
        except UserError:
            return None

    @classmethod
    def _of(cls, content: object, path: Path, entries: Collection[str], signature: str | None) -> "Checkpoint":
        if not isinstance(content, Mapping) or not _has_header(content):
            raise UserError(f"{path} is no checkpoint of a training run: {REMEDY}")
        if content["format"] != FORMAT or {*content, *ADDED} != {*HEADER, *entries, *ADDED}:
            raise UserError(
                f"{path} has format {content['format']}, this version reads format {FORMAT}: go on with the version "
                "that wrote it, or start a new run from its weights with --load model_state_dict.pkl"
            )
        return cls(path, content["settings"], content["corpus"], content["step"], content["log_end"], signature)

    def resume(self, parts: Iterable[Part]) -> None:
        """Put the parts of a new run where they were when the checkpoint was written.

        Raises:
            UserError: they were the parts of another kind of run.
        """
        state = {**read_tensors(self.path, checked=True, remedy=REMEDY), "settings": self.settings}
        self.see_that_it_is_still_there()  # what was read is what `newest` has compared with its checksums
        try:
            for part in parts:
                part.restore(state)
        except (AttributeError, IndexError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"--restart_dir {self.path.parent}: its checkpoint holds the state of another kind of run "
                f"({type(error).__name__}: {error}): pass the folder of a run of this script"
            ) from error

    def see_that_it_is_still_there(self) -> None:
        """Compare the file with the one whose header was read.

        Raises:
            UserError: another process has gone on from it meanwhile.
        """
        if archive_signature(self.path) != self.signature:
            raise UserError(
                f"{self.path.parent} is in use by another process, which has gone on from {self.path.name}: wait until "
                "that has ended, then go on from the new one"
            )

    def become_the_newest(self) -> bool:
        """Be `checkpoint.pt`, in place of one that cannot be used; whether that is possible."""
        with suppress(OSError):  # the next one that is written tells
            os.replace(self.path, self.path.with_name(CHECKPOINT_FILE))
            sync_folder(self.path.parent)
            return True
        return False


def _header(path: Path) -> tuple[str | None, object]:
    """A sound file's signature, and its content with tensors that stay in the file."""
    signature = archive_signature(path)
    check_archive(path, remedy="it cannot be used")
    return signature, read_tensors(path, lazily=True, checked=True, remedy="it cannot be used")


def _has_header(content: Mapping[str, Any]) -> bool:
    if not content.keys() >= set(HEADER):
        return False
    numbers = [content[name] for name in ("format", "step", "log_end")]
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(content["settings"], Mapping)
        and isinstance(content["corpus"], str)
    )


def corpus_of(folder: str | os.PathLike) -> str | None:
    """Identity of the corpus of a run, if a checkpoint in its folder tells; the rest of that is not read."""
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        with suppress(UserError):
            content = read_tensors(Path(folder, name), lazily=True)
            if isinstance(content, Mapping) and isinstance(content.get("corpus"), str):
                return content["corpus"]
    return None
