"""The optimizer that the settings ask for, and clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.settings import Settings

# RAdam's weight decay is decoupled, as Liu et al., arXiv 1908.03265, published it.
OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    "RAdam": torch.optim.RAdam,
}
EXTRA_OPTIONS = {"RAdam": {"decoupled_weight_decay": True}}


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Settings, lr: float) -> Optimizer:
    """An optimizer over `parameters`, each of them once however often it is tied, starting at rate `lr`."""
    options = EXTRA_OPTIONS.get(settings.optim, {})
    return OPTIMIZERS[settings.optim](parameters, lr=lr, weight_decay=settings.weight_decay, **options)


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clipped_parameters(model: nn.Module, *, embeddings: bool) -> list[nn.Parameter]:
    """The parameters whose gradient is clipped: all, or all but those of `word_emb`.

    A softmax weight that is tied to the embedding is an embedding weight.
    """
    return [
        parameter
        for name, parameter in model.named_parameters()  # the embedding comes first: it names what is tied
        if embeddings or not name.startswith("word_emb.")
    ]


def clip(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients so that their global norm is at most `largest`; the norm before, a scalar tensor."""
    return nn.utils.clip_grad_norm_(parameters, largest)
