"""Averaged SGD: once validations stop improving, the mean of the weights from there on is validated and kept."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import get_swa_multi_avg_fn

from config.settings import Settings
from models.protocol import LanguageModel
from utils.schedules import Patience

PREFIX = "module."  # of the mean's names in a checkpoint


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
        self.averaged: LanguageModel | None = None
        self.n_averaged = 0
        self.take_in = get_swa_multi_avg_fn()

    @property
    def model(self) -> LanguageModel:
        """The model that counts: of the mean weights where there are some, else the trained one."""
        return self.trained if self.averaged is None else self.averaged

    def consider(self, loss: float) -> bool:
        """Take in a validation's loss (nats per token); whether averaging begins with the weights of now."""
        if not self.is_asked_for or self.averaged is not None:
            return False
        begins = self.patience.ends_with(loss) and math.isfinite(loss)
        self.patience = self.patience.after(loss)
        if begins:
            self.averaged, self.n_averaged = copy.deepcopy(self.trained), 1
        return begins

    def add(self) -> None:
        """Take in the weights that an update has led to."""
        if self.averaged is not None:
            mean, new = ([p.detach() for p in model.parameters()] for model in (self.averaged, self.trained))
            self.take_in(mean, new, self.n_averaged)  # a number of Python: the host need not wait for a device
            self.n_averaged += 1

    def begin_stage(self) -> None:
        """Wait for the trigger anew: the shallow stage's weights and losses say nothing about the equilibrium's."""
        self.averaged, self.patience = None, Patience(self.patience.n)

    def put_into_trained(self) -> None:
        """Give the trained model the weights that count."""
        if self.averaged is not None:
            self.trained.load_state_dict(self.averaged.state_dict())

    def state(self) -> dict[str, Any]:
        """For a checkpoint; the mean as `torch.optim.swa_utils.AveragedModel` writes it."""
        weights = None
        if self.averaged is not None:
            mean = {f"{PREFIX}{name}": value for name, value in self.averaged.state_dict().items()}
            weights = {"n_averaged": torch.tensor(self.n_averaged), **mean}
        return {"average": {"losses": list(self.patience.losses), "weights": weights}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; where averages are no longer asked for, with the weights that were trained."""
        if not self.is_asked_for or "average" not in state:  # not in older programs'
            return
        self.patience = Patience(self.patience.n, tuple(state["average"]["losses"]))
        if state["average"]["weights"] is not None:
            weights = dict(state["average"]["weights"])
            self.averaged, self.n_averaged = copy.deepcopy(self.trained), int(weights.pop("n_averaged"))
            self.averaged.load_state_dict({name.removeprefix(PREFIX): value for name, value in weights.items()})
