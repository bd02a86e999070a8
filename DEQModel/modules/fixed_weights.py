"""What is made of weights alone, kept from one solve to the next while they do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


class KeepsWeights(nn.Module):
    """A module that makes something of its weights for each solve, as it normalises or packs them."""

    kept: dict[str, object] | None = None  # name -> what was made; None outside of `fixed_weights`

    def __getstate__(self) -> dict[str, object]:
        """A copy keeps nothing."""
        return {**super().__getstate__(), "kept": None}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """make(), or inside `fixed_weights` what it came to the first time: in evaluation mode and without gradients.

        In training mode weights may be drawn for each solve, as by DropConnect.
        """
        if self.kept is None or self.training or torch.is_grad_enabled():
            return make()
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


def made_once(owner: KeepsWeights | None, name: str, make: Callable[[], T]) -> T:
    """`owner.once(name, make)`, where there is an owner."""
    return make() if owner is None else owner.once(name, make)


@contextmanager
def fixed_weights(model: nn.Module) -> Iterator[None]:
    """Inside, nobody changes the model's weights: what evaluation mode makes of them without gradients is made once.

    For evaluations, many solves of one model. Entered again inside, it changes nothing.
    """
    modules = [module for module in model.modules() if isinstance(module, KeepsWeights) and module.kept is None]
    for module in modules:
        module.kept = {}
    try:
        yield
    finally:
        for module in modules:
            module.kept = None
