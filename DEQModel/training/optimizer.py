"""The optimizer of a run."""

from typing import Any

from torch.optim import Optimizer

from config.settings import Settings
from models.maps import no_maps
from models.protocol import LanguageModel
from utils.optimizers import OPTIMIZERS


def make_optimizer(model: LanguageModel, settings: Settings) -> Optimizer:
    """The optimizer that the settings name."""
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optim == "Muon":
        options |= {**no_maps(model), "adam_ratio": settings.adam_ratio}
    return OPTIMIZERS[settings.optim](model.parameters(), **options)
