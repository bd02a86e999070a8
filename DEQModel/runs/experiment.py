"""The record of a run: its folder, its log, its TensorBoard curves, its settings and results as JSON."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from config.settings import Settings
from data.vocabulary import Vocab
from runs.log_file import LogFile
from runs.run_folder import make_run_folder
from system.errors import UserError
from system.json_file import write_json
from system.lines import wrapped
from system.progress import LostScreenError, has_bar, say

LOG_FILE = "log.txt"
SETTINGS_FILE = "settings.json"
RESULTS_FILE = "results.json"
SWEEP_FILE = "sweep.json"
WEIGHTS_FILE = "model_state_dict.pkl"
VOCABULARY_FILE = "vocabulary.txt"

GOES_WITHOUT = "the run goes on without it"
LOSES_POINTS = "its curves lose these points"


@dataclass(frozen=True)
class _Failure:
    """A file that could not be written when it was last tried: why, and how to try again."""

    reason: str
    again: Callable[[], object]


class Experiment:
    """Where a run's messages, curves and results go; closes its files when left as a context.

    Once it is made, nothing that happens to the disk stops the run: what cannot be written is said on the screen,
    once, and tried again; lines of the log wait, points of curves are lost; `unwritten` tells what is missing at the
    end. Its folder belongs to it alone.

    Args:
        settings: of the run; with `debug` nothing is written to disk, and `folder` is None.
        about: what stands beside them in their file: what the run was made with.
        folder: of a run to go on in; None makes a new one.
        log_end: bytes of that run's log that stay, None for all.
        before_cut: called when the folder is this process's alone, before anything in it is changed.
        step: from which that run goes on: its points from there on count no more.
        silent: nothing is written nor shown, and `folder` is None: a process beside the one that tells.

    Raises:
        UserError: the folder cannot be made or written, or another process is at work in it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        about: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        log_end: int | None = None,
        before_cut: Callable[[], object] = lambda: None,
        step: int = 0,
        silent: bool = False,
    ):
        self.silent = silent
        self.folder: Path | None = None
        self._log = self._curves = None
        self._failing: dict[Path, _Failure] = {}
        if silent or settings.debug:
            return
        self.folder = make_run_folder(settings) if folder is None else Path(folder)
        self._log = _open_log(self.folder / LOG_FILE, log_end, before_cut)
        options = dataclasses.asdict(settings)
        self._write_json(SETTINGS_FILE, {**(about or {}), "settings": options})
        if settings.eval:
            return
        # Imported here: it takes a second or two, which --help, --eval and --debug need not wait for.
        from runs.curves import Curves

        self._curves = Curves(self.folder, purge_step=None if folder is None else step)
        table = "\n".join(f"| {name} | {value} |" for name, value in options.items())
        text = f"| setting | value |\n|---|---|\n{table}"
        self._try(self._curves.path, LOSES_POINTS, partial(self._curves.text, "settings", text, step))

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is None:
            return
        if kind is not None:
            self._put(wrapped(f"ended by {kind.__name__}: {error}", 4))
        with suppress(OSError):  # the user has been told
            self._log.flush()
        self._log.close()
        if self._curves is not None:
            self._curves.close()

    @property
    def log_end(self) -> int:
        """Bytes of the log so far, lines that wait for the disk included; 0 where there is none."""
        return 0 if self._log is None else self._log.end

    def log(self, text: str, *, routine: bool = False) -> None:
        """Write a line to the log and the screen; where there is a log, the run goes on when the screen is lost.

        Args:
            routine: the line repeats what the progress bar shows, and is left off a terminal that has one.

        Raises:
            LostScreenError: the screen is lost and there is no log.
        """
        if self.silent:
            return
        self._put(text)
        if not (routine and has_bar()):
            self._show(text)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve."""
        if self._curves is not None:
            self._try(self._curves.path, LOSES_POINTS, partial(self._curves.scalars, values, step))

    def results(self, results: Mapping[str, Any], name: str = RESULTS_FILE) -> None:
        """Write results, for programs to read."""
        if self.folder is not None:
            self._write_json(name, results)

    def vocabulary(self, vocab: Vocab) -> None:
        """Write the words of the run's corpus, which its weights are useless without."""
        if self.folder is not None:
            path = self.folder / VOCABULARY_FILE
            self._try(path, GOES_WITHOUT, partial(vocab.write, path))

    def discard_results(self) -> None:
        """Remove the results of an earlier call: the model that they are of is going to be another."""
        if self.folder is not None:
            path = self.folder / RESULTS_FILE
            self._try(path, GOES_WITHOUT, partial(path.unlink, missing_ok=True))

    def unwritten(self) -> dict[str, str]:
        """Try once more to write what could not be written: the files for which that fails too, and why."""
        for path, failure in list(self._failing.items()):
            self._try(path, GOES_WITHOUT, failure.again)
        return {str(path.relative_to(self.folder)): failure.reason for path, failure in self._failing.items()}

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        path = self.folder / name
        self._try(path, GOES_WITHOUT, partial(write_json, path, content))

    def _put(self, text: str) -> None:
        if self._log is not None:
            self._try(self._log.path, "its lines wait in memory", partial(self._log.write, text), self._log.flush)

    def _show(self, text: str) -> None:
        try:
            say(text)
        except LostScreenError as error:
            if self._log is None:
                raise
            self._put(f"{error}; the run goes on")

    def _try(
        self, path: Path, consequence: str, write: Callable[[], object], again: Callable[[], object] | None = None
    ) -> None:
        """Go on without a file that cannot be written, and say so once until it works again.

        Args:
            path: the file.
            consequence: of a failure.
            write: writes it.
            again: writes it after a failure, if it is not `write`.
        """
        try:
            write()
        except OSError as error:
            is_new, reason = path not in self._failing, error.strerror or str(error)
            self._failing[path] = _Failure(reason, again or write)
            if is_new:
                self._show(f"warning: cannot write {path} ({reason}), {consequence}: make room or mend the folder")
        else:
            if self._failing.pop(path, None):
                self._show(f"{path} can be written again")


def _open_log(path: Path, end: int | None, before_cut: Callable[[], object]) -> LogFile:
    try:
        return LogFile(path, end, before_cut)
    except BlockingIOError as error:
        raise UserError(
            f"{path.parent} is in use by another process: wait until that has ended, or pass another folder"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): make room or mend the folder") from error
