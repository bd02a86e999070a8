"""The Muon optimizer for a whole model: orthogonalised momentum for its matrices, Adam for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OF_MUON = ("momentum", "nesterov")
OF_ADAM = ("betas", "eps")


class Muon(Optimizer):
    """`torch.optim.Muon` for matrices and `torch.optim.Adam` for all other parameters, as one optimizer.

    A parameter is a matrix where two or more of its dimensions are above 1. One of more dimensions, as the weight
    (out, in, kernel) of a convolution, counts as the matrix (out, in * kernel). There is a parameter group for each of
    the two kinds that there is. The rate `lr` of both is that of the matrices, so that a schedule sets one number;
    Adam's own is `adam_ratio` times that. All state is in `state`, and so in `state_dict()`.

    Args:
        parameters: all of a model's.
        lr: rate of the matrices; an update of one has singular values near `lr` times sqrt(max(1, rows / columns)).
        weight_decay: share of the weights that an update at the rate 1 takes away, apart from the gradient (AdamW).
        vectors: those that are none of a model's maps, though they have the shape of matrices: embeddings, softmax
            weights, biases of several heads.
        momentum, nesterov: of the matrices.
        adam_ratio: Adam's rate as a multiple of `lr`.
        betas, eps: Adam's.

    Raises:
        ValueError: no parameters, or numbers out of range.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; arXiv 2502.16982.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.02,
        *,
        weight_decay: float = 0.0,
        vectors: Iterable[nn.Parameter] = (),
        momentum: float = 0.95,
        nesterov: bool = True,
        adam_ratio: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        if not adam_ratio >= 0:
            raise ValueError(f"`adam_ratio` is {adam_ratio}: pass 0 or more")
        apart = {id(parameter) for parameter in vectors}
        matrices, others = [], []
        for parameter in parameters:
            is_map = _is_matrix(parameter) and id(parameter) not in apart
            (matrices if is_map else others).append(parameter)
        groups = [
            {"params": matrices, "matrices": True, "momentum": momentum, "nesterov": nesterov},
            {"params": others, "matrices": False, "adam_ratio": adam_ratio, "betas": betas, "eps": eps},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "weight_decay": weight_decay})
        for group in self.param_groups:
            _made(group, group["params"])  # the two check their own numbers

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; the closure's value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                optimizer, given = _made(group, parameters)
                for mine, its in zip(parameters, given, strict=True):
                    optimizer.state[its] = self.state[mine]  # what it writes there stays
                optimizer.step()
        return loss


def _made(group: dict[str, Any], parameters: list[nn.Parameter]) -> tuple[Optimizer, list[Tensor]]:
    """An optimizer for one step of some of a group's parameters, and these in the form in which it has them."""
    lr, weight_decay = group["lr"], group["weight_decay"]
    if group["matrices"]:
        given = [_flattened(parameter) for parameter in parameters]
        options = {name: group[name] for name in ("momentum", "nesterov")}
        return torch.optim.Muon(given, lr=lr, weight_decay=weight_decay, **options), given
    options = {name: group[name] for name in ("betas", "eps")}
    return torch.optim.AdamW(parameters, lr=lr * group["adam_ratio"], weight_decay=weight_decay, **options), parameters


def _is_matrix(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) >= 2


def _flattened(parameter: nn.Parameter) -> Tensor:
    """The same numbers as a matrix (rows, columns), and their gradient."""
    alias = parameter.detach().view(parameter.shape[0], -1)
    if parameter.grad is not None:
        alias.grad = parameter.grad.reshape(alias.shape)
    return alias
