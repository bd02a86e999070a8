"""The one door to faster forms of a map, for many evaluations without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from .checks import check_choice
from .state import Map


def _eager(f: Map, z0: Tensor) -> Map:
    return f


def _packed(f: Map, z0: Tensor) -> Map:
    return f.pack(z0) if hasattr(f, "pack") else f


PREPARATIONS: dict[str, Callable[[Map, Tensor], Map]] = {
    "eager": _eager,
    "packed": _packed,
}


def prepare(f: Map, z0: Tensor, how: Literal["eager", "packed"]) -> Map:
    """A map with the values of f but for rounding, for evaluations without gradients on states like z0.

    Args:
        f: the map, (B, *) -> (B, *).
        z0: a state, which shows shape, dtype and device.
        how: "eager" for f itself; "packed" for `f.pack(z0)`, f with its weights laid out for many products, where f has
            such a method, and else f itself.

    Raises:
        ValueError: another name than those.
    """
    check_choice("how", how, PREPARATIONS)
    return PREPARATIONS[how](f, z0)
