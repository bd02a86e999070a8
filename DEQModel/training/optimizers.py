"""The optimizer that the settings ask for, and clipping."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from config.settings import Settings

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


def split_for_clipping(model: nn.Module, *, clip_embeddings: bool) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters whose gradient is clipped, and those that are spared: none, or the embeddings (`word_emb`).

    A softmax weight that is tied to the embedding is an embedding weight.
    """
    embeddings = set() if clip_embeddings else {id(parameter) for parameter in model.word_emb.parameters()}
    clipped, spared = [], []
    for parameter in model.parameters():
        (spared if id(parameter) in embeddings else clipped).append(parameter)
    return clipped, spared


def clip(clipped: list[nn.Parameter], spared: list[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients of `clipped` so that their global norm is at most `largest`.

    Returns:
        The norm of all gradients before that, those of `spared` included; a scalar tensor.
    """
    norm = nn.utils.clip_grad_norm_(clipped, largest)
    if spared:
        gradients = [parameter.grad for parameter in spared if parameter.grad is not None]
        norm = torch.hypot(norm, nn.utils.get_total_norm(gradients).to(norm))
    return norm
