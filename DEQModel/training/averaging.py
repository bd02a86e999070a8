"""Averaged SGD: once validations stop improving, the mean of the weights from there on is validated and kept."""

import math
from collections.abc import Mapping
from typing import Any

from torch.optim.swa_utils import AveragedModel

from config.settings import Settings
from models.protocol import LanguageModel
from utils.schedules import Patience


class WeightAverage:
    """The mean of a model's weights over the updates since its trigger; training goes on with the others.

    Part of a run's state.

    Args:
        settings: of the run, which ask for it or not.
        model: that is trained.

    Source: Merity, Keskar and Socher, arXiv 1708.02182, algorithm 1.
    """

    ENTRIES = ("average",)

    def __init__(self, settings: Settings, model: LanguageModel):
        self.is_asked_for, self.trained = settings.asgd, model
        self.patience = Patience(settings.nonmono)
        self.averaged: AveragedModel | None = None

    @property
    def model(self) -> LanguageModel:
        """The model that counts: of the mean weights where there are some, else the trained one."""
        return self.trained if self.averaged is None else self.averaged.module

    def consider(self, loss: float) -> bool:
        """Take in a validation's loss (nats per token); whether averaging begins with the weights of now."""
        if not self.is_asked_for or self.averaged is not None:
            return False
        begins = self.patience.ends_with(loss) and math.isfinite(loss)
        self.patience = self.patience.after(loss)
        if begins:
            self._begin()
            self.add()
        return begins

    def add(self) -> None:
        """Take in the weights that an update has led to."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.trained)

    def begin_stage(self) -> None:
        """Wait for the trigger anew: the shallow stage's weights and losses say nothing about the equilibrium's."""
        self.averaged, self.patience = None, Patience(self.patience.n)

    def put_into_trained(self) -> None:
        """Give the trained model the weights that count."""
        if self.averaged is not None:
            self.trained.load_state_dict(self.averaged.module.state_dict())

    def _begin(self) -> None:
        self.averaged = AveragedModel(self.trained)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        weights = None if self.averaged is None else self.averaged.state_dict()
        return {"average": {"losses": list(self.patience.losses), "weights": weights}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; where averages are no longer asked for, with the weights that were trained."""
        if not self.is_asked_for or "average" not in state:  # not in older programs'
            return
        self.patience = Patience(self.patience.n, tuple(state["average"]["losses"]))
        if state["average"]["weights"] is not None:
            self._begin()
            self.averaged.load_state_dict(state["average"]["weights"])
