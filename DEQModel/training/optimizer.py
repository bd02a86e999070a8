"""The optimizer of a model."""

from typing import Any

from torch.optim import Optimizer

from config.settings import Settings
from models.maps import no_maps
from models.protocol import LanguageModel
from utils.optimizers import OPTIMIZERS


def make_optimizer(model: LanguageModel, settings: Settings) -> Optimizer:
    """The optimizer that the settings of a run name."""
    return named_optimizer(settings.optim, model, settings.lr, settings.adam_ratio, weight_decay=settings.weight_decay)


def named_optimizer(name: str, model: LanguageModel, lr: float, adam_ratio: float, **options: Any) -> Optimizer:
    """An optimizer of all parameters of a model.

    Args:
        name: a key of `OPTIMIZERS`.
        model: whose embedding and softmax Muon takes for no maps.
        lr: the learning rate.
        adam_ratio: Muon's; the others leave it aside.
        options: further ones, of this optimizer.
    """
    if name == "Muon":
        options |= {**no_maps(model), "adam_ratio": adam_ratio}
    return OPTIMIZERS[name](model.parameters(), lr=lr, **options)
