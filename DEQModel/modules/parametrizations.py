"""Weights that are computed from others (torch.nn.utils.parametrize), once in a solve and not at every evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.nn.utils import parametrize


class WeightCache:
    """What parametrized weights come to, for a map that is to stay the same however often it is evaluated.

    PyTorch keeps such weights inside `parametrize.cached()`. What is evaluated without gradients needs a cache of its
    own: in the common one, the weights that a solve computed would take the place of those that the application with
    gradients needs, which would then have none. PyTorch has no public name for its cache, of which there is one for all
    threads: models with such weights must not be solved for in several threads at once.

    Args:
        shared: begin with the one that is in use around the call, if there is one; what it has then stays in it.
    """

    def __init__(self, *, shared: bool):
        self.tensors: dict[tuple[int, str], Tensor | None] = {}
        self.entered: list[tuple[AbstractContextManager, dict]] = []
        if shared and parametrize._cache_enabled:
            self.tensors = parametrize._cache

    def forget_all_but(self, n: int) -> None:
        """Keeps the n weights that were computed first."""
        for key in list(self.tensors)[n:]:
            del self.tensors[key]

    def __enter__(self) -> WeightCache:
        """Inside, weights are taken from here or kept here; it may be entered again, as when f is recomputed."""
        caching = parametrize.cached()
        caching.__enter__()
        self.entered.append((caching, parametrize._cache))
        parametrize._cache = self.tensors
        return self

    def __exit__(self, *error: Any) -> None:
        caching, parametrize._cache = self.entered.pop()
        caching.__exit__(*error)
