"""What a run tells while it goes on: lines of its log, points of its curves."""

from collections.abc import Mapping

from data.measure import MEASURES, figures
from data.vocabulary import Unit
from evaluation.probe import Probe
from evaluation.report import EvaluationReport
from runs.experiment import Experiment
from system.lines import stamped
from training.log_lines import legend, of_updates, of_validation, warning
from training.progress import Progress
from training.telemetry import Telemetry
from training.update import Update


class Narration:
    """Tells of updates and validations, at the step where the run stands.

    Args:
        experiment: the run's record.
        progress: where it stands.
        telemetry: what its updates came to.
        max_step: number of the step at which it ends.
        unit: what a token is.
        solves: whether the run has solves to tell of.
    """

    def __init__(
        self,
        experiment: Experiment,
        progress: Progress,
        telemetry: Telemetry,
        max_step: int,
        unit: Unit,
        *,
        solves: bool = True,
    ):
        self.experiment, self.progress, self.telemetry, self.max_step = experiment, progress, telemetry, max_step
        self.unit, self.measure, self.solves = unit, MEASURES[unit], solves

    def begin(self) -> None:
        """Tell how the lines are to be read."""
        if self.progress.step < self.max_step:
            self.experiment.log(legend(solves=self.solves))

    def go_on(self) -> None:
        """Draw again the points of the step that the run goes on from: those in other files count no more."""
        if self.telemetry.points:
            self.experiment.scalars(self.telemetry.points, self.progress.step)

    def say(self, text: str) -> None:
        """Log a line that begins with the clock and the step."""
        self.experiment.log(stamped(f"step {self.progress.step} {text}"))

    def updates(self) -> None:
        """Tell of the updates since the last such line."""
        progress, recent = self.progress, self.telemetry.logged()
        self.experiment.log(stamped(of_updates(recent, progress.step, self.max_step, self.measure)), routine=True)
        if text := warning(recent):
            self.say(text)
        more = {"train/epoch": progress.epoch, "train/seconds": self.telemetry.totals.seconds}
        compared = {f"train/{name}": value for name, value in figures(recent.loss, self.unit).items()}
        self._draw({**recent.scalars(), **compared, **more})

    def skipped(self, update: Update, max_bad_steps: int) -> None:
        """Tell of an update that was not made, and how many in a row would stop the run."""
        self.say(
            f"update skipped: loss {update.loss:g}, gradient {update.norm:g} ({self.progress.bad_steps} in a row, "
            f"--max_bad_steps {max_bad_steps})"
        )

    def validation(self, report: EvaluationReport, best: EvaluationReport | None, probe: Probe | None) -> None:
        """Tell of a validation, and of all updates since the one before.

        Args:
            report: of it.
            best: of the best model so far, which may be this one.
            probe: made with it, where it solved.
        """
        window, step, epoch = self.telemetry.validated(), self.progress.step, self.progress.epoch
        self.experiment.log(stamped(of_validation(report, best, window, step=step, epoch=epoch, probe=probe)))
        self._draw({**report.scalars(), **(probe.scalars() if probe else {})})

    def _draw(self, points: Mapping[str, float]) -> None:
        self.experiment.scalars(points, self.progress.step)
        self.telemetry.points |= points
