"""What a cell needs beside z, and stays fixed during a solve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def batched(dim: int) -> Any:
    """A field of a `Context` that has the sequences in dimension `dim`; it may be None."""
    return field(metadata={"batch_dim": dim})


def owner() -> Any:
    """A field of a `Context`: the module whose weights it has, or None. It goes with every form of the context."""
    return field(default=None, metadata={"is_owner": True})


@dataclass(frozen=True)
class Context:
    """All that a cell needs beside z, computed once per solve, with gradients where they are enabled.

    A subclass is a frozen dataclass. Its fields are tensors, further contexts or tuples of those, or None for what
    there is not; those that have an entry a sequence say in which dimension: `keys: Tensor = batched(1)`. What is
    neither has been prepared for this very dtype and place, as weights in another layout: `select` hands it on, `to`
    leaves it out; but for the `owner` of the weights.
    `to` is for solves in another precision, `copy_` for maps that are captured once and run on fixed buffers.
    """

    def select(self, rows: Tensor) -> Context:
        """The context of these sequences (b,) alone."""

        def selected(name: str, value: Any) -> Any:
            if isinstance(value, Context):
                return value.select(rows)
            dim = _batch_dim(self, name)
            return value if value is None or dim is None else value[(slice(None),) * dim + (rows,)]

        return self._with(selected)

    def to(self, dtype: torch.dtype) -> Context:
        """The same in another floating-point dtype."""

        def cast(name: str, value: Any) -> Any:
            if isinstance(value, Context):
                return value.to(dtype)
            if isinstance(value, Tensor):
                return value.to(dtype) if value.is_floating_point() else value
            return value if _is_owner(self, name) else None

        return self._with(cast)

    @torch.no_grad()
    def copy_(self, other: Context) -> None:
        """Take over the values of a context of the same shapes, in place: fixed buffers see a new solve.

        Tensors may be the model's parameters: copy from contexts of the same model alone, or into clones.

        Raises:
            ValueError: the two have not the same fields filled, or hold something that is prepared.
        """
        for mine, value in list(self._pairs(other)):  # all are checked before the first is written
            mine.copy_(value)

    def _pairs(self, other: Context) -> Iterator[tuple[Tensor, Tensor]]:
        for name, mine in self._items():
            value = getattr(other, name)
            if isinstance(mine, Context) and isinstance(value, Context):
                yield from mine._pairs(value)
            elif _are_contexts(mine) and _are_contexts(value) and len(mine) == len(value):
                for one, other_one in zip(mine, value, strict=True):
                    yield from one._pairs(other_one)
            elif isinstance(mine, Tensor) and isinstance(value, Tensor):
                if mine.shape != value.shape:
                    raise ValueError(
                        f"{type(self).__name__}.{name} is {tuple(mine.shape)} here and {tuple(value.shape)} there"
                    )
                yield mine, value
            elif (mine is not None or value is not None) and not _is_owner(self, name):
                raise ValueError(f"{type(self).__name__}.{name} is a tensor in one context alone, or is prepared")

    def pack(self, n_rows: int) -> Context:
        """The same, its weights prepared for many evaluations without gradients on n_rows = B·L rows."""
        return self._with(lambda name, value: value.pack(n_rows) if isinstance(value, Context) else value)

    def adjoint(self, n_rows: int) -> Context | None:
        """The same, prepared for many products with the transposed Jacobian of the cell by z; None where none of it is.

        No gradient is to go to any of its tensors.
        """
        prepared = False

        def changed(name: str, value: Any) -> Any:
            nonlocal prepared
            own = value.adjoint(n_rows) if isinstance(value, Context) else None
            prepared = prepared or own is not None
            return value if own is None else own

        context = self._with(changed)
        return context if prepared else None

    def detach(self) -> Context:
        """The same without a graph."""
        return self._with(lambda name, value: value.detach() if isinstance(value, Context | Tensor) else value)

    def _items(self) -> list[tuple[str, Any]]:
        return [(entry.name, getattr(self, entry.name)) for entry in dataclasses.fields(self)]

    def _with(self, change: Callable[[str, Any], Any]) -> Context:
        def changed(name: str, value: Any) -> Any:
            return tuple(change(name, one) for one in value) if _are_contexts(value) else change(name, value)

        return dataclasses.replace(self, **{name: changed(name, value) for name, value in self._items()})


def _are_contexts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, Context) for one in value)


def _is_owner(context: Context, name: str) -> bool:
    return "is_owner" in type(context).__dataclass_fields__[name].metadata


def _batch_dim(context: Context, name: str) -> int | None:
    return type(context).__dataclass_fields__[name].metadata.get("batch_dim")
