"""Starts of solves beside plain zeros."""

from __future__ import annotations

import torch

from .checks import Range
from .state import State, StateLayout


def mixed_start(like: State, *, zeros: float = 0.5, generator: torch.Generator | None = None) -> State:
    """A start of which each entry is 0 with probability `zeros`, and otherwise drawn from N(0, 1).

    A model that is trained from such starts learns equilibria that do not depend on where a solve begins, and gains
    more from further steps at test time.

    Args:
        like: a state, a tensor or several, for shapes, dtype and device.
        zeros: in [0, 1].
        generator: to draw from, on that device; None for PyTorch's own.

    Raises:
        ValueError: no state, or a share outside [0, 1].

    Source: Anil et al., Path Independent Equilibrium Models, arXiv 2211.09961.
    """
    Range(least=0, most=1).check("zeros", zeros)
    layout = StateLayout.of(like, name="like")
    flat = layout.flatten(like)
    values = torch.empty_like(flat).normal_(generator=generator)
    return layout.apart(values * torch.empty_like(flat).bernoulli_(1 - zeros, generator=generator))
