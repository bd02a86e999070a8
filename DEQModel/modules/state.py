"""States that are tuples of tensors, packed into one (B, N) tensor for the solvers, and maps of other dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modules.tracker import by_row

State = Tensor | tuple[Tensor, ...]  # (B, *), or several of them with the same B and dtype


@dataclass(frozen=True)
class StateLayout:
    """The shapes (without B) of the tensors that a packed state (B, N) consists of."""

    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, state: tuple[Tensor, ...]) -> StateLayout:
        """Raises ValueError where the tensors differ in B or dtype, or there is none."""
        if len({(len(part), part.dtype) for part in state}) != 1:
            described = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in state)
            raise ValueError(f"the state's tensors are ({described}): all need the same first dimension and dtype")
        return cls(tuple(part.shape[1:] for part in state))

    def pack(self, state: tuple[Tensor, ...]) -> Tensor:
        """Tensors (B, *) to one (B, N)."""
        if tuple(part.shape[1:] for part in state) != self.shapes:
            found = ", ".join(str(tuple(part.shape)) for part in state)
            raise ValueError(f"f gives tensors of shapes {found}: they must be those of its argument")
        return torch.cat([by_row(part) for part in state], dim=1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, ...]:
        """(B, N) to views of the tensors."""
        parts = packed.split([shape.numel() for shape in self.shapes], dim=1)
        return tuple(part.view(len(packed), *shape) for part, shape in zip(parts, self.shapes, strict=True))

    def packed(self, f: Callable) -> PackedMap:
        """f on packed states."""
        return PackedMap(f, self)


@dataclass(frozen=True)
class _Wrapper:
    """A map made of f that has a method `select(rows)` where f has one."""

    f: Callable

    @property
    def select(self) -> Callable:
        select = self.f.select  # an AttributeError says that there is none
        return lambda rows: replace(self, f=select(rows))


@dataclass(frozen=True)
class PackedMap(_Wrapper):
    """f, a map of tuples, as a map of packed states."""

    layout: StateLayout

    def __call__(self, z: Tensor) -> Tensor:
        return self.layout.pack(self.f(self.layout.unpack(z)))


@dataclass(frozen=True)
class CastMap(_Wrapper):
    """f with its values in one dtype, for maps that autocast makes return another."""

    dtype: torch.dtype

    def __call__(self, z: Tensor) -> Tensor:
        return self.f(z).to(self.dtype)
