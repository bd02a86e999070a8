"""Plain and damped iteration of a map, with ordinary gradients."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from modules.state import Map, State


def iterate(f: Map, z: State, *, steps: int, damping: float = 1.0, recompute: bool = False) -> State:
    """z ← (1 - damping) z + damping f(z), `steps` times, with a graph through all steps where gradients are enabled.

    Args:
        f: the map.
        z: the start (B, *), a tensor where the steps are damped.
        steps: applications of f; none gives z itself.
        damping: in (0, 1]; 1 for z ← f(z).
        recompute: keep of each step the state that it began with alone, and run f again on backward, when it must
            still be the same map.
    """
    for _ in range(steps):
        fz = checkpoint(f, z, use_reentrant=False) if recompute else f(z)
        z = fz if damping == 1 else torch.lerp(z, fz, damping)
    return z
