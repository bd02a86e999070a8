"""The Muon optimizer for a whole model: orthogonalised momentum for its matrices, Adam for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.matrix_muon import MatrixMuon

OF_MUON = ("momentum", "nesterov")
OF_ADAM = ("betas", "eps")


class Muon(Optimizer):
    """`torch.optim.Muon` for matrices and `torch.optim.AdamW` for all other parameters, as one optimizer.

    On a CPU the matrices are orthogonalised in their own precision (`MatrixMuon`).

    A parameter is a matrix where two or more of its dimensions are above 1. One of more dimensions, as the weight
    (out, in, kernel) of a convolution, counts as the matrix (out, in * kernel). There is a parameter group for the
    matrices, one for what is decayed but is none of them, as embeddings, and one for what is spared: each where there
    is such. The rate `lr` of all is that of the matrices, so that a schedule sets one number; Adam's own is
    `adam_ratio` times that. All state is in `state`, and so in `state_dict()`.

    Args:
        parameters: all of a model's.
        lr: rate of the matrices; an update of one has singular values near `lr` times sqrt(max(1, rows / columns)).
        weight_decay: share of the weights that an update at the rate 1 takes away, apart from the gradient (AdamW); of
            parameters with one dimension above 1 at most, as biases and the gains of norms, it takes nothing.
        vectors: those that are none of a model's maps, though they have the shape of matrices: embeddings, softmax
            weights, biases of several heads.
        spared: those among the vectors that have no weight decay, as these biases.
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
        spared: Iterable[nn.Parameter] = (),
        momentum: float = 0.95,
        nesterov: bool = True,
        adam_ratio: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        if not adam_ratio >= 0:
            raise ValueError(f"`adam_ratio` is {adam_ratio}: pass 0 or more")
        apart, whole = ({id(parameter) for parameter in some} for some in (vectors, spared))
        matrices, decayed, others = [], [], []
        for parameter in parameters:
            if not _is_matrix(parameter) or id(parameter) in whole:
                others.append(parameter)
            else:
                (decayed if id(parameter) in apart else matrices).append(parameter)
        of_adam = {"matrices": False, "adam_ratio": adam_ratio, "betas": betas, "eps": eps}
        groups = [
            {"params": matrices, "matrices": True, "momentum": momentum, "nesterov": nesterov},
            {"params": decayed, **of_adam},
            {"params": others, **of_adam, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "weight_decay": weight_decay})
        self.parts = [_Part(group) for group in self.param_groups]  # they check their own numbers

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what `load_state_dict`, a copy or a pickle brings; the parts belong to the groups of before."""
        super().__setstate__(state)
        self.parts = [_Part(group) for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; the closure's value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.step(group, self.state)
        return loss


class _Part:
    """The optimizer of a group, and the group's parameters in the form in which it has them."""

    def __init__(self, group: Mapping[str, Any]):
        if group["matrices"]:
            self.given = [_flattened(parameter) for parameter in group["params"]]
            self.names, kind = OF_MUON, MatrixMuon
        else:
            self.given = group["params"]
            self.names, kind = OF_ADAM, torch.optim.AdamW
        self.optimizer: Optimizer = kind(self.given, **self._options(group))

    def _options(self, group: Mapping[str, Any]) -> dict[str, Any]:
        rate = group["lr"] * group.get("adam_ratio", 1)
        return {"lr": rate, "weight_decay": group["weight_decay"], **{name: group[name] for name in self.names}}

    def step(self, group: Mapping[str, Any], state: dict[Tensor, dict[str, Any]]) -> None:
        """An update by the group's options of now; what belongs to its parameters is kept in `state`."""
        self.optimizer.param_groups[0].update(self._options(group))
        for parameter, its in zip(group["params"], self.given, strict=True):
            if parameter.grad is None:
                continue
            if its is not parameter:  # which may have gone to another device meanwhile
                its.data, its.grad = parameter.detach().view(its.shape), parameter.grad.reshape(its.shape)
            self.optimizer.state[its] = state[parameter]  # what is written there stays
        self.optimizer.step()
        for parameter, its in zip(group["params"], self.given, strict=True):
            if its is not parameter:
                its.grad = None  # a view of what the next update does without


def _is_matrix(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) >= 2


def _flattened(parameter: nn.Parameter) -> Tensor:
    """The same numbers as a matrix (rows, columns)."""
    return parameter if parameter.dim() == 2 else parameter.detach().view(parameter.shape[0], -1)
