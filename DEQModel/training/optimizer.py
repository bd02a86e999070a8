"""The optimizer of a run."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from config.settings import Settings
from models.protocol import LanguageModel
from utils.optimizers import OPTIMIZERS


def make_optimizer(model: LanguageModel, settings: Settings) -> Optimizer:
    """The optimizer that the settings name."""
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optim == "Muon":
        options |= {**no_maps(model), "adam_ratio": settings.adam_ratio}
    return OPTIMIZERS[settings.optim](model.parameters(), **options)


def no_maps(model: LanguageModel) -> dict[str, Iterable[nn.Parameter]]:
    """The parameters that are none of a model's maps though they have the shape of matrices, as Muon takes them.

    These are embedding and softmax, and biases, which several heads have as a matrix (H, E).
    """
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    return {"vectors": [*model.embedding_parameters(), *model.head.parameters(), *biases], "spared": biases}
