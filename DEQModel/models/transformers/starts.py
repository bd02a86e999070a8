"""Where the search for the equilibrium starts. Shapes: B sequences, L positions, M of the memory, D = d_model."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def at_zero(memory: Tensor, injection: Tensor) -> Tensor:
    """z = 0, as published."""
    n_batch, n_position, _ = injection.shape
    return injection.new_zeros(n_batch, n_position, memory.shape[2])


def at_injection(memory: Tensor, injection: Tensor) -> Tensor:
    """The last D channels of u: what is added to the state or, where nothing is, to the values."""
    return injection[..., -memory.shape[2] :]


def at_previous(memory: Tensor, injection: Tensor) -> Tensor:
    """The last L states that are remembered, position by position; 0 at the first ones where there are fewer."""
    n_position = injection.shape[1]
    last = memory[:, max(memory.shape[1] - n_position, 0) :]
    return F.pad(last, (0, 0, n_position - last.shape[1], 0))


STARTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # of the memory's states (B, M, D) and the injection of the segment's own positions (B, L, ·): z0 (B, L, D)
    "zero": at_zero,
    "injection": at_injection,
    "previous": at_previous,
}
