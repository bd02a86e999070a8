"""Plain and damped iteration of a map, with ordinary gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .state import Map, State

NOTHING = nullcontext()


def iterate(
    f: Map,
    z: State,
    *,
    steps: int,
    damping: float = 1.0,
    recompute: bool = False,
    around: AbstractContextManager = NOTHING,
) -> State:
    """z ← (1 - damping) z + damping f(z), `steps` times, with a graph through all steps where gradients are enabled.

    Args:
        f: the map.
        z: the start (B, *), a tensor where the steps are damped.
        steps: applications of f; none gives z itself.
        damping: in (0, 1]; 1 for z ← f(z).
        recompute: keep of each step the state that it began with alone, and run f again on backward, when it must
            still be the same map.
        around: the surroundings of f where it is recomputed, in both runs; may be entered any number of times.
    """
    apply = partial(_recomputed, f, around) if recompute else f
    for _ in range(steps):
        fz = apply(z)
        z = fz if damping == 1 else torch.lerp(z, fz, damping)
    return z


def _recomputed(f: Map, around: AbstractContextManager, z: State) -> State:
    """f(z), computed again on backward."""
    with set_checkpoint_early_stop(False):  # f is then run to its end, whatever it checks there
        return checkpoint(f, z, use_reentrant=False, context_fn=lambda: (around, around))
