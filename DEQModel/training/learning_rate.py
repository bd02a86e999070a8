"""The learning rate of a run: its schedule, its falls on plateaus, and what a resumed run makes of both."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from config.settings import Settings
from utils.optimizers import set_rate
from utils.schedules import Annealing, Patience, Plateau, Schedule


class LearningRate:
    """Sets an optimizer's rate; part of a run's state.

    Args:
        settings: of the run.
        optimizer: whose rate is set.
    """

    ENTRIES = ("plateau", "annealing")

    def __init__(self, settings: Settings, optimizer: Optimizer):
        self.settings, self.optimizer = settings, optimizer
        self.schedule = Schedule(
            settings.scheduler, settings.lr, settings.warmup_step, settings.max_step, settings.eta_min, settings.when
        )
        self.plateau = Plateau(settings.lr, settings.decay_rate, settings.lr_min, settings.patience)
        self.annealing = Annealing(Patience(settings.anneal))

    def after(self, step: int) -> float:
        """The rate after `step` updates, for the next one."""
        return self.schedule(step) / 10**self.annealing.falls

    def set(self, step: int) -> None:
        """Give the optimizer the rate of the update after `step` updates."""
        set_rate(self.optimizer, self.after(step))

    def consider(self, loss: float, step: int) -> None:
        """Take in a validation's loss (nats a token) after `step` updates: dev_perf and --anneal may lower the rate."""
        if step < self.settings.warmup_step:
            return
        if self.settings.scheduler == "dev_perf":
            self.plateau = self.plateau.after(loss)
            self.schedule = replace(self.schedule, lr=self.plateau.lr)
        if self.settings.anneal:
            self.annealing = self.annealing.after(loss)
        self.set(step)

    def begin_stage(self) -> None:
        """Compare validations of the equilibrium with those of the shallow stage no more."""
        self.annealing = replace(self.annealing, patience=Patience(self.settings.anneal))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        annealing = {"losses": list(self.annealing.patience.losses), "falls": self.annealing.falls}
        return {"plateau": vars(self.plateau), "annealing": annealing}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; a rate that the user has changed since counts, not the one that had been lowered."""
        before, kept = state["plateau"], self.settings.lr == state["settings"]["lr"]
        lr = before["lr"] if kept else self.settings.lr
        self.plateau = replace(self.plateau, lr=lr, best=before["best"], bad=before["bad"])
        if self.settings.scheduler == "dev_perf":
            self.schedule = replace(self.schedule, lr=lr)
        if "annealing" in state:  # not in older programs'
            losses, falls = tuple(state["annealing"]["losses"]), state["annealing"]["falls"]
            self.annealing = Annealing(Patience(self.settings.anneal, losses), falls if kept else 0)
        self.set(state["step"])
