"""The checkpoints that a run keeps in its folder: the newest, and one from before that is proven."""

from collections.abc import Collection, Mapping
from typing import Any

from runs.experiment import Experiment
from training.checkpoint import Checkpoint, write_checkpoint


class KeptCheckpoints:
    """`checkpoint.pt`, and as `checkpoint.previous.pt` one from before whose weights are known to be sound.

    An update that was sound proves the checkpoint before it: its weights give a finite loss and gradient. As none is
    written while updates are skipped, a checkpoint is proven when one of a later step is written; only then does it
    become the previous one.

    Args:
        experiment: the run's record, in whose folder they are.
        entries: that the parts of a run have in a checkpoint.

    Attributes:
        step: of `checkpoint.pt`; None while there is none.
        fault: why the last one could not be written; None where it was.
    """

    def __init__(self, experiment: Experiment, entries: Collection[str]):
        self.experiment, self.entries = experiment, entries
        self.step: int | None = None
        self.fault: str | None = None

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Make the checkpoint that the run goes on from the newest one: one that could not be read gives way."""
        if checkpoint.become_the_newest():
            self.step = checkpoint.step

    def write(self, content: Mapping[str, Any]) -> None:
        """Write a checkpoint of sound weights; where that fails the run goes on."""
        folder, step = self.experiment.folder, content["step"]
        try:
            write_checkpoint(content, folder, keep=self.step is not None and self.step < step)
        except OSError as error:
            self.fault = error.strerror or str(error)
            self.experiment.log(
                f"warning: step {step}: no checkpoint could be written to {folder} ({self.fault}): the run goes on and "
                "tries again at the next save; make room or mend the folder"
            )
        else:
            self.step, self.fault = step, None

    def way_back(self, sound: int) -> str:
        """Where a run that has diverged goes on; a newest checkpoint that is not proven gives way to the one before.

        Args:
            sound: step of the last update that was not skipped.
        """
        if self.step is None:
            return "no checkpoint was written before"
        if sound > self.step:
            return f"--restart goes back to step {self.step}"
        ruined, previous = self.step, Checkpoint.previous(self.experiment.folder, self.entries)
        if previous is None or not previous.become_the_newest():
            return f"--restart goes back to step {ruined}, whose weights may be ruined: no checkpoint before it is left"
        self.step = previous.step
        return f"--restart goes back to step {self.step}, as no update since step {ruined} was sound"
