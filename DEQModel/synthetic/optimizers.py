"""The optimizers by name, each for a model whose embedding and softmax are no maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from models.protocol import LanguageModel
from utils.muon import Muon


def _adam(model: LanguageModel, settings: Any) -> Optimizer:
    return torch.optim.Adam(model.parameters(), settings.lr, betas=(0.9, settings.beta2))


def _muon(model: LanguageModel, settings: Any) -> Optimizer:
    vectors = [*model.embedding_parameters(), *model.head.parameters()]
    vectors += [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    return Muon(model.parameters(), settings.lr, vectors=vectors, adam_ratio=settings.adam_ratio)


OPTIMIZERS: dict[str, Callable[[LanguageModel, Any], Optimizer]] = {"Adam": _adam, "Muon": _muon}
