"""Where a run stands."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from evaluation.report import EvaluationReport


@dataclass
class Progress:
    """Where a run stands between two updates; part of its state.

    Attributes:
        step: updates so far, counted from --start_train_steps.
        epoch: number of passes over the text, this one included.
        position: in the (T, B) stream of training tokens, of the next segment.
        bad_steps: skipped updates up to now, in a row.
        validation_pending: the run is about to validate.
    """

    ENTRIES: ClassVar = ("step", "epoch", "position", "bad_steps", "validation_pending")

    step: int
    epoch: int = 1
    position: int = 0
    bad_steps: int = 0
    validation_pending: bool = False

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            TypeError, ValueError: it is no run's.
        """
        for entry in fields(self):
            value = state[entry.name]
            if type(value) is not type(getattr(self, entry.name)):
                raise TypeError(f"{entry.name} is a {type(value).__name__}")
            if value < 0:
                raise ValueError(f"{entry.name} is {value}")
            setattr(self, entry.name, value)


@dataclass
class ShallowStage:
    """What the shallow stage, or the last of several, came to, once it has ended; part of a run's state."""

    ENTRIES: ClassVar = ("after_shallow",)

    report: EvaluationReport | None = None

    def end(self, report: EvaluationReport, *, several: bool) -> str:
        """Take in the validation at the end of a stage, one of two or of several; the stage in words."""
        if report.shallow is None:
            return "equilibrium stage"
        self.report = report
        return "shallow stage" + (f" of depth {report.shallow}" if several else "")

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"after_shallow": self.report and self.report.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.report = state["after_shallow"] and EvaluationReport.of(state["after_shallow"])
