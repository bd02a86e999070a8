"""The one door to faster forms of a map, for the many evaluations of a solve, forward or backward."""

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
FEWEST_PRODUCTS = 16  # of a backward solve, for which an adjoint is prepared: that costs about as much as ten save


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


def prepare_adjoint(f: Map, z: Tensor, how: Literal["eager", "packed"], n_products: int) -> Map | None:
    """A map with the values of f but for rounding, whose products with the transposed Jacobian take less time.

    Args:
        f: the map, (B, *) -> (B, *).
        z: the state that the Jacobian is taken at.
        how: "packed" for `f.adjoint(z)`, where f has such a method.
        n_products: how many are expected.

    Returns:
        The map, from which gradients go to its argument alone; None where f itself is to be used.
    """
    if how == "eager" or n_products < FEWEST_PRODUCTS or not hasattr(f, "adjoint"):
        return None
    return f.adjoint(z)
