"""The optimizers by name, each for a model whose embedding and softmax are no maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from models.maps import no_maps
from models.protocol import LanguageModel
from utils.muon import Muon


def _adam(model: LanguageModel, settings: Any) -> Optimizer:
    return torch.optim.Adam(model.parameters(), settings.lr, betas=(0.9, settings.beta2))


def _muon(model: LanguageModel, settings: Any) -> Optimizer:
    return Muon(model.parameters(), settings.lr, adam_ratio=settings.adam_ratio, **no_maps(model))


OPTIMIZERS: dict[str, Callable[[LanguageModel, Any], Optimizer]] = {"Adam": _adam, "Muon": _muon}
