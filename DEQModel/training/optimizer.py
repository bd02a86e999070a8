"""The optimizer of a model."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from config.settings import Settings
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
        options |= {**_no_maps(model), "adam_ratio": adam_ratio}
    return OPTIMIZERS[name](model.parameters(), lr=lr, **options)


def _no_maps(model: LanguageModel) -> dict[str, Iterable[nn.Parameter]]:
    """The parameters that are none of a model's maps though they have the shape of matrices, as Muon takes them.

    These are embedding and softmax, and biases, which several heads have as a matrix (H, E).
    """
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    return {"vectors": [*model.embedding_parameters(), *model.head.parameters(), *biases], "spared": biases}
