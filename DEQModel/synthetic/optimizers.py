"""The optimizers by name, each for a model whose embedding and softmax are no maps."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from models.protocol import LanguageModel
from utils.muon import Muon


def _adam(model: LanguageModel, lr: float) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr)


def _muon(model: LanguageModel, lr: float) -> Optimizer:
    vectors = [*model.embedding_parameters(), *model.head.parameters()]
    vectors += [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    return Muon(model.parameters(), lr, vectors=vectors)


OPTIMIZERS: dict[str, Callable[[LanguageModel, float], Optimizer]] = {"Adam": _adam, "Muon": _muon}
