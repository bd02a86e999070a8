"""What values parameters and states may have. Messages have a parameter's name in backticks, for which others can put a
flag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


@dataclass(frozen=True)
class Range:
    """The numbers that are at least `least`, above `above`, below `below` and at most `most`, each where it is given.

    `whole` ones are integers by their type too: 12.0 is none, so that 12.5 cannot be taken for 12.
    """

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        bounds = {
            "{} or more": self.least,
            "a number above {}": self.above,
            "below {}": self.below,
            "at most {}": self.most,
        }
        return " and ".join(words.format(bound) for words, bound in bounds.items() if bound is not None)

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError where the value of this parameter lies outside, as NaN does, or is no such number."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            kind = "whole number" if self.whole else "number"
            raise ValueError(f"`{name}` is {value!r}, a {type(value).__name__}: pass a {kind}, {self}")
        if value not in self:
            raise ValueError(f"`{name}` is {value}: pass {self}")


SHARE = Range(above=0, most=1)  # of a step, or of one value in the mean of two
COUNT = Range(least=0, whole=True)  # of steps, as thresholds are
AT_LEAST_ONE = Range(least=1, whole=True)
TOLERANCE = Range(least=0)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError where the value of this parameter is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` is {value!r}: choose one of {', '.join(choices)}")


def check_image(fz: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuses f(z) that is not like z."""
    if not isinstance(fz, Tensor):
        raise ValueError(f"f gives a {type(fz).__name__}: it must give a tensor like its argument")
    if fz.shape != shape or fz.dtype != dtype:
        raise ValueError(f"f maps {tuple(shape)} {dtype} to {tuple(fz.shape)} {fz.dtype}: both must be the same")


def check_no_transform(*tensors: Tensor) -> None:
    """Refuses derivatives that would fail obscurely or be those of the last step alone."""
    for x in tensors:
        if isinstance(x, Tensor) and torch._C._functorch.is_legacy_batchedtensor(x):
            raise RuntimeError(
                "an equilibrium is solved for one gradient at a time: call jacobian with vectorize=False, or grad "
                "without is_grads_batched"
            )
    dual = any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in tensors)
    if dual or torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "an equilibrium has reverse-mode derivatives only, through torch.autograd: it cannot be solved for inside "
            "torch.func.grad, vjp, jvp or vmap, or under forward-mode differentiation"
        )
