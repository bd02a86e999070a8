"""Weights that are computed from others, and the cache that PyTorch keeps of them on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.utils import parametrize


@contextmanager
def parametrizations_apart() -> Iterator[None]:
    """Inside `parametrize.cached()`, a cache of its own for what is computed without gradients.

    In the common one, weights that a solve without gradients computed would take the place of those that the
    application with gradients needs, which would then have none. PyTorch has no public name for its cache.
    """
    before = parametrize._cache
    parametrize._cache = {}
    try:
        yield
    finally:
        parametrize._cache = before
