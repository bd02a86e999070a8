"""States and their maps: tuples of tensors as one flat tensor (B, N) for the solvers, and maps of other dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modules.tracker import by_row

State = Tensor | tuple[Tensor, ...]  # (B, *), or several of them with the same B and dtype
Map = Callable[[State], State]  # z -> f(z), of the same shapes, dtype and device


@dataclass(frozen=True)
class StateLayout:
    """The shapes (without B) of the tensors that a flat state (B, N) consists of."""

    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, state: tuple[Tensor, ...]) -> StateLayout:
        """Raises ValueError where the tensors differ in B or dtype, or there is none."""
        if len({(len(part), part.dtype) for part in state}) != 1:
            described = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in state)
            raise ValueError(f"the state's tensors are ({described}): all need the same first dimension and dtype")
        return cls(tuple(part.shape[1:] for part in state))

    def flatten(self, state: tuple[Tensor, ...]) -> Tensor:
        """Tensors (B, *) to one (B, N)."""
        if tuple(part.shape[1:] for part in state) != self.shapes:
            found = ", ".join(str(tuple(part.shape)) for part in state)
            raise ValueError(f"f gives tensors of shapes {found}: they must be those of its argument")
        return torch.cat([by_row(part) for part in state], dim=1)

    def unflatten(self, flat: Tensor) -> tuple[Tensor, ...]:
        """(B, N) to views of the tensors."""
        parts = flat.split([shape.numel() for shape in self.shapes], dim=1)
        return tuple(part.view(len(flat), *shape) for part, shape in zip(parts, self.shapes, strict=True))

    def flattened(self, f: Map) -> FlatMap:
        """f on flat states."""
        return FlatMap(f, self)


@dataclass(frozen=True)
class _Wrapper:
    """A map made of f that has a method `select(rows)` where f has one."""

    f: Map

    @property
    def select(self) -> Callable:
        select = self.f.select  # an AttributeError says that there is none
        return lambda rows: replace(self, f=select(rows))


@dataclass(frozen=True)
class FlatMap(_Wrapper):
    """f, a map of tuples, as a map of flat states."""

    layout: StateLayout

    def __call__(self, z: Tensor) -> Tensor:
        return self.layout.flatten(self.f(self.layout.unflatten(z)))


@dataclass(frozen=True)
class CastMap(_Wrapper):
    """f with its values in one dtype, for maps that autocast makes return another; has `pack(z)` where f has it."""

    dtype: torch.dtype

    @property
    def pack(self) -> Callable[[Tensor], CastMap]:
        pack = self.f.pack  # an AttributeError says that there is none
        return lambda z: replace(self, f=pack(z))

    def __call__(self, z: Tensor) -> Tensor:
        return self.f(z).to(self.dtype)
