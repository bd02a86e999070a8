"""The best model of a run: its validation's report, and its weights in the run's folder."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evaluation.report import EvaluationReport
from runs.experiment import WEIGHTS_FILE, Experiment
from runs.saved_model import ModelDescription
from system.distributed import World
from system.errors import UserError
from system.state_dicts import load_into, load_state_dict, save_state_dict
from system.tensor_files import archive_signature, check_archive

Describe = Callable[[int | None], ModelDescription]  # of a model of n applications, None for an equilibrium


class BestModel:
    """Keeps the weights with the lowest loss on valid, of the stage that the run is in.

    They go to a file in the experiment's folder; where there is none, or it cannot be written, they wait here. Part of
    a run's state.

    Args:
        experiment: the run's record.
        world: the processes; the first one writes.
        max_step: number of the step at which training ends.
        describe: what stands beside the weights; None for nothing.
    """

    ENTRIES = ("best", "best_file")

    def __init__(self, experiment: Experiment, world: World, max_step: int, describe: Describe | None = None):
        self.experiment, self.world, self.max_step, self.describe = experiment, world, max_step, describe
        self.report: EvaluationReport | None = None
        self.latest: EvaluationReport | None = None  # of whatever model
        self.signature: str | None = None  # of the file, once it holds these weights
        self.waiting: Mapping[str, Tensor] | None = None
        self.fault: str | None = None  # why they wait, where the disk is to blame

    def consider(self, report: EvaluationReport, model: nn.Module) -> None:
        """Keep `model` if it is the best of its stage. One whose loss is not finite never is.

        A loss after n_layer applications says nothing about the equilibrium's: with the first validation of the
        equilibrium stage the search starts again.
        """
        best, self.latest = self.report, report
        if not math.isfinite(report.loss):
            return
        if best is None or best.shallow != report.shallow or report.loss < best.loss:
            self.report, self.signature, self.waiting = report, None, None
            if not self.experiment.silent:
                self._write(model.state_dict())

    def is_of(self, *, shallow: bool) -> bool:
        """Whether there is a best model of the shallow stage, or of the equilibrium stage."""
        return self.report is not None and (self.report.shallow is not None) == shallow

    def _write(self, state: Mapping[str, Tensor]) -> None:
        folder = self.experiment.folder
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                save_state_dict(state, folder / WEIGHTS_FILE)
                self._describe(folder / WEIGHTS_FILE)
                self.signature, self.fault = archive_signature(folder / WEIGHTS_FILE), None
                return
            except OSError as error:
                self.fault = error.strerror or str(error)
                self.experiment.log(
                    f"warning: {folder / WEIGHTS_FILE} could not be written ({self.fault}): the best "
                    "model waits in memory until the next save; make room or mend the folder"
                )
        self.waiting = copy.deepcopy(state)

    def _describe(self, path: Path) -> None:
        if self.describe is not None:
            self.describe(self.report.shallow).write(path)

    def is_of_now(self) -> bool:
        """Whether it was found under the settings of now, as far as its score depends on them."""
        if self.experiment.folder is None or self.describe is None:
            return True
        try:
            found = ModelDescription.beside(self.experiment.folder / WEIGHTS_FILE)
        except UserError:
            return False
        return found is None or found.has_settings_of(self.describe(self.report.shallow))

    def renew(self, report: EvaluationReport) -> None:
        """Take another report of the same model, under the settings of now, and write these beside its weights."""
        self.report = report
        if self.experiment.folder is not None and not self.experiment.silent:
            try:
                self._describe(self.experiment.folder / WEIGHTS_FILE)
            except OSError as error:
                self.fault = error.strerror or str(error)

    def write_what_waits(self) -> None:
        """Try again to write weights that could not be written when they were found."""
        if self.waiting is not None and self.experiment.folder is not None:
            state, self.waiting = self.waiting, None
            self._write(state)

    def put_back(self, model: nn.Module) -> EvaluationReport:
        """Put the best weights into the model, if they are still there; the report of its validation.

        Raises:
            UserError: they are not, and no other model can take their place.
        """
        path = WEIGHTS_FILE if self.experiment.folder is None else self.experiment.folder / WEIGHTS_FILE
        try:
            load_into(model, self.waiting or self._read(path), path)
        except UserError as error:
            if self.latest is None or not math.isfinite(self.latest.loss):
                raise UserError(
                    f"{path} does not hold the best model any more: --restart searches for it again"
                ) from error
            self.experiment.log(f"warning: the best model is lost, and the last one takes its place: {error}")
            self.report = self.latest
            self._write(model.state_dict())
        return self.report

    def _read(self, path: Path) -> dict[str, Tensor]:
        state = load_state_dict(path)
        if archive_signature(path) != self.signature:
            raise UserError(f"{path} is not the file that was written")
        return state

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.report and self.report.state(), "best_file": self.signature}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; where the file is not there any more the search starts again."""
        if state["best"] is not None and self.world.of_first(self._is_there(state)):
            report = EvaluationReport.of(state["best"])
            if math.isfinite(report.loss):  # an older program kept others, too
                self.report, self.signature = report, state["best_file"]

    def _is_there(self, state: Mapping[str, Any]) -> bool:
        """Whether the file holds the best model that the checkpoint knows.

        A sound file that is another was written after the checkpoint. The validation that found it will mostly be
        repeated, and the file written again; what it replaced is gone, and would only keep other models away.
        """
        if self.experiment.folder is None:
            return False
        path = self.experiment.folder / WEIGHTS_FILE
        try:
            check_archive(path, remedy="the search for the best model starts again")
            signature, ended = archive_signature(path), state["step"] >= self.max_step
            replaced = signature != state["best_file"]
            lost = replaced and ended and not state["validation_pending"]
            if signature is None or state["best_file"] is None or lost:
                raise UserError(f"{path} does not hold the best model: the search for it starts again")
        except UserError as error:
            self.experiment.log(f"warning: {error}")
            return False
        return not replaced
