"""The optimizer of a run."""

from typing import Any

from torch.optim import Optimizer

from config.settings import Settings
from models.protocol import LanguageModel
from utils.optimizers import OPTIMIZERS


def make_optimizer(model: LanguageModel, settings: Settings) -> Optimizer:
    """The optimizer that the settings name.

    Muon takes a model's maps; to it embedding and softmax are none, nor are biases, which several heads have as a
    matrix (H, E).
    """
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optim == "Muon":
        biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
        tables = [*model.embedding_parameters(), *model.head.parameters()]
        options |= {"vectors": [*tables, *biases], "spared": biases, "adam_ratio": settings.adam_ratio}
    return OPTIMIZERS[settings.optim](model.parameters(), **options)
