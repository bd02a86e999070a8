"""The learning rate of a run: its schedule, its fall on plateaus, and what a resumed run makes of both."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from config.settings import Settings
from utils.optimizers import set_rate
from utils.schedules import Plateau, Schedule


class LearningRate:
    """Sets an optimizer's rate; part of a run's state.

    Args:
        settings: of the run.
        optimizer: whose rate is set.
    """

    ENTRIES = ("plateau",)

    def __init__(self, settings: Settings, optimizer: Optimizer):
        self.settings, self.optimizer = settings, optimizer
        self.schedule = Schedule(
            settings.scheduler, settings.lr, settings.warmup_step, settings.max_step, settings.eta_min
        )
        self.plateau = Plateau(settings.lr, settings.decay_rate, settings.lr_min, settings.patience)

    def after(self, step: int) -> float:
        """The rate after `step` updates, for the next one."""
        return self.schedule(step)

    def set(self, step: int) -> None:
        """Give the optimizer the rate of the update after `step` updates."""
        set_rate(self.optimizer, self.after(step))

    def consider(self, loss: float, step: int) -> None:
        """Take in a validation's loss (nats per token) after `step` updates: dev_perf may lower the rate."""
        if self.settings.scheduler == "dev_perf" and step >= self.settings.warmup_step:
            self.plateau = self.plateau.after(loss)
            self.schedule = replace(self.schedule, lr=self.plateau.lr)
            self.set(step)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"plateau": vars(self.plateau)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; a rate that the user has changed since counts, not the one that plateaus had lowered."""
        before = state["plateau"]
        lr = before["lr"] if self.settings.lr == state["settings"]["lr"] else self.settings.lr
        self.plateau = replace(self.plateau, lr=lr, best=before["best"], bad=before["bad"])
        if self.settings.scheduler == "dev_perf":
            self.schedule = replace(self.schedule, lr=lr)
        self.set(state["step"])
