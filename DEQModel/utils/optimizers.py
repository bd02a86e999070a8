"""The optimizers by name, and clipping."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.muon import Muon

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    # decoupled, as Liu et al., arXiv 1908.03265, published it
    "RAdam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
    "Muon": Muon,
}


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Clipping:
    """Scales gradients so that their global norm is at most a bound.

    Args:
        parameters: all of a model's.
        unclipped: those whose gradients are left alone, such as the embedding's; what is tied to them is one of them.
        largest: the bound.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], unclipped: Iterable[nn.Parameter], largest: float):
        apart = {id(parameter) for parameter in unclipped}
        self.clipped, self.unclipped, self.largest = [], [], largest
        for parameter in parameters:
            (self.unclipped if id(parameter) in apart else self.clipped).append(parameter)

    def __call__(self) -> Tensor:
        """Scale the gradients; the norm of all of them before that, the unclipped ones' included, a scalar."""
        norm = nn.utils.clip_grad_norm_(self.clipped, self.largest)
        if self.unclipped:
            gradients = [parameter.grad for parameter in self.unclipped if parameter.grad is not None]
            norm = torch.hypot(norm, nn.utils.get_total_norm(gradients).to(norm))
        return norm
