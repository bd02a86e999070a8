"""States and their maps: several tensors as one flat tensor (B, N) for the solvers, and maps in other forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .tracker import by_row

State = Tensor | Sequence[Tensor]  # (B, *), or several of them with the same B and dtype
Map = Callable[[Any], Any]  # z -> f(z), of the same shapes, dtype and device

# The order of the dimensions after the first in memory, by number of dimensions, where channels come last.
CHANNELS_LAST = {4: (torch.channels_last, (2, 3, 1)), 5: (torch.channels_last_3d, (2, 3, 4, 1))}


@dataclass(frozen=True)
class Part:
    """One tensor of a state: its shape without B, and the order in which its dimensions lie in memory."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> Part:
        memory_format, order = CHANNELS_LAST.get(x.dim(), (torch.contiguous_format, ()))
        if x.is_contiguous() or not x.is_contiguous(memory_format=memory_format):
            order = range(1, x.dim())
        return cls(tuple(x.shape[1:]), tuple(order))

    @property
    def in_order(self) -> bool:
        """Whether it lies in memory as its dimensions are counted."""
        return self.order == tuple(range(1, len(self.order) + 1))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def flatten(self, x: Tensor) -> Tensor:
        """(B, *) to (B, n), without a copy where x lies in memory like this part."""
        return by_row(x.permute(0, *self.order)) if len(self.order) > 1 else by_row(x)

    def unflatten(self, flat: Tensor) -> Tensor:
        """(B, n) to a view (B, *)."""
        x = flat.view(len(flat), *(self.shape[dim - 1] for dim in self.order))
        return x.permute(0, *(self.order.index(dim) + 1 for dim in range(1, x.dim())))


@dataclass(frozen=True)
class StateLayout:
    """The tensors that a flat state (B, N) consists of, and how the caller holds them.

    Attributes:
        parts: of the tensors.
        kind: the caller's type for them: a tuple, a named tuple or a list; None for a lone tensor.
    """

    parts: tuple[Part, ...]
    kind: type | None

    @classmethod
    def of(cls, state: State, *, name: str = "z0") -> StateLayout:
        """Raises ValueError where the parameter of this name is no state."""
        tensors = (state,) if isinstance(state, Tensor) else state
        if not isinstance(tensors, (tuple, list)):
            raise ValueError(f"`{name}` is a {type(state).__name__}: pass a tensor (B, *), or a tuple or list of them")
        for place, part in enumerate(tensors):
            if not isinstance(part, Tensor):
                raise ValueError(
                    f"`{name}` has a {type(part).__name__} in place {place}: pass a tuple or list of tensors alone"
                )
        described = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in tensors)
        if not all(part.is_floating_point() and part.dim() for part in tensors):
            raise ValueError(f"`{name}` is {described}: pass floating-point tensors (B, *)")
        if len({(len(part), part.dtype) for part in tensors}) != 1:
            raise ValueError(f"the state's tensors are ({described}): all need the same first dimension and dtype")
        return cls(tuple(Part.of(part) for part in tensors), None if tensors[0] is state else type(state))

    @property
    def is_flat(self) -> bool:
        """Whether solvers can take such a state as it is."""
        return self.kind is None and self.parts[0].in_order

    def flatten(self, state: State) -> Tensor:
        """Tensors (B, *) to one (B, N)."""
        if self.kind is None:
            return self.parts[0].flatten(state)
        if not isinstance(state, (tuple, list)):
            raise ValueError(f"f gives a {type(state).__name__}: it must give {len(self.parts)} tensors, as it gets")
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else (type(part).__name__,) for part in state]
        if [shape[1:] for shape in shapes] != [part.shape for part in self.parts]:
            found = ", ".join(map(str, shapes))
            raise ValueError(f"f gives tensors of shapes {found}: they must be those of its argument")
        return torch.cat([part.flatten(x) for part, x in zip(self.parts, state, strict=True)], dim=1)

    def unflatten(self, flat: Tensor) -> State:
        """(B, N) to the tensors, each in one piece; views where they can be."""
        if self.kind is None:
            return self.parts[0].unflatten(flat)
        return self._parts(flat, Tensor.contiguous)

    def _parts(self, flat: Tensor, piece: Callable[[Tensor], Tensor]) -> State:
        """The tensors, from pieces (B, n) of the flat state that lie in one piece."""
        flats = flat.split([part.size for part in self.parts], dim=1)
        tensors = (part.unflatten(piece(own)) for part, own in zip(self.parts, flats, strict=True))
        return self.kind._make(tensors) if hasattr(self.kind, "_make") else self.kind(tensors)

    def apart(self, flat: Tensor) -> State:
        """(B, N) to tensors of their own."""
        if self.kind is None:
            return self.unflatten(flat).clone()
        return self._parts(flat, partial(torch.clone, memory_format=torch.contiguous_format))

    def flattened(self, f: Map) -> FlatMap:
        """f on flat states."""
        return FlatMap(f, self)


def unpacked(f: Callable[..., Sequence[Tensor]]) -> Map:
    """f(a, b, …) of several tensors as a map of tuples of them: `deq(unpacked(f), (a0, b0))`."""
    return UnpackedMap(f)


@dataclass(frozen=True)
class Wrapper:
    """A map made of f that has a method `select(rows)` where f has one."""

    f: Map

    @property
    def select(self) -> Callable:
        select = self.f.select  # an AttributeError says that there is none
        return lambda rows: replace(self, f=select(rows))


@dataclass(frozen=True)
class UnpackedMap(Wrapper):
    """f, a function of several tensors, as a map of tuples."""

    def __call__(self, z: Sequence[Tensor]) -> Sequence[Tensor]:
        if isinstance(z, Tensor):
            raise ValueError("an unpacked map needs a state of several tensors: pass a tuple or list of them as start")
        return self.f(*z)


@dataclass(frozen=True)
class FlatMap(Wrapper):
    """f, a map of the caller's states, as a map of flat ones."""

    layout: StateLayout

    def __call__(self, z: Tensor) -> Tensor:
        return self.layout.flatten(self.f(self.layout.unflatten(z)))


@dataclass(frozen=True)
class CastMap(Wrapper):
    """f with its values in one dtype, for maps that autocast makes return another; has `pack(z)` where f has it."""

    dtype: torch.dtype

    @property
    def pack(self) -> Callable[[Tensor], CastMap]:
        pack = self.f.pack  # an AttributeError says that there is none
        return lambda z: replace(self, f=pack(z))

    def __call__(self, z: Tensor) -> Tensor:
        return self.f(z).to(self.dtype)
