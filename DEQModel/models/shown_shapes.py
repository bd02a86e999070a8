"""State dicts of any generation: their current names, and what their shapes show of the settings of training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

from utils.adaptive_embedding import has_projections, table_shapes

BARE_PROJECTION = re.compile(r"(^|\.)(emb|out)_projs\.\d+$")


@dataclass(frozen=True)
class Shapes:
    """The shapes of a state dict's entries, of a model whose `name` messages say."""

    state: dict[str, Tensor]
    name: str

    def of(self, entry: str, n_dims: int) -> tuple[int, ...]:
        """An entry's shape.

        Raises:
            ValueError: there is no such entry, or it has another number of dimensions.
        """
        if entry not in self.state:
            raise ValueError(f"no entry {entry}: {self.remedy}")
        shape = tuple(self.state[entry].shape)
        if len(shape) != n_dims:
            raise ValueError(f"{entry} has shape {shape}, not {n_dims} dimensions: {self.remedy}")
        return shape

    @property
    def remedy(self) -> str:
        """What to do about a file that is of no such model."""
        return f"pass the state dict of a {self.name}"


@dataclass(frozen=True)
class ShownBins:
    """What an adaptive embedding shows.

    A cutoff is None where only the number of cutoffs shows (div_val 1: one table holds all bins). Where several
    div_val give the same shapes it is the smallest.
    """

    n_token: int
    d_embed: int
    d_model: int
    cutoffs: tuple[int | None, ...]
    div_val: int

    @staticmethod
    def read(shapes: Shapes, d_model: int) -> ShownBins:
        """Read them off a state dict whose embedding comes to a width of d_model.

        Raises:
            ValueError: when an entry is missing or has a shape that no adaptive embedding gives it.
        """
        tables = [shapes.of("word_emb.emb_layers.0.weight", 2)]
        while (name := f"word_emb.emb_layers.{len(tables)}.weight") in shapes.state:
            tables.append(shapes.of(name, 2))
        cutoffs: tuple[int | None, ...] = tuple(accumulate(size for size, _ in tables[:-1]))
        if len(tables) == 1 and "crit.cluster_weight" in shapes.state:
            cutoffs = (None,) * shapes.of("crit.cluster_weight", 2)[0]
        return ShownBins(
            n_token=sum(size for size, _ in tables),
            d_embed=tables[0][1],
            d_model=d_model,
            cutoffs=cutoffs,
            div_val=_div_val([width for _, width in tables], d_model, shapes),
        )

    def bin_faults(self, config: Any) -> list[str]:
        """How cutoffs and div_val differ from a configuration's."""
        return [*_cutoff_faults(self.cutoffs, tuple(config.cutoffs)), *self._div_val_faults(config.div_val)]

    def _div_val_faults(self, expected: int) -> list[str]:
        # Several div_val may give the same shapes, so the shapes are what is compared.
        def shapes(div_val: int) -> tuple[list[int], bool]:
            # Bins of one word stand in for the cutoffs: those of a file may be unknown, and only widths matter here.
            cutoffs = range(1, 1 + len(self.cutoffs))
            tables = table_shapes(1 + len(cutoffs), self.d_embed, cutoffs, div_val)
            return [width for _, width in tables], has_projections(self.d_embed, self.d_model, div_val)

        if shapes(self.div_val) == shapes(expected):
            return []
        return [f"`div_val` is {expected} but the file has {self.div_val}: pass `div_val` {self.div_val}"]


def vocabulary_faults(n_token: int, config: Any) -> list[str]:
    """Whether the file's vocabulary has another size than the configuration's."""
    if n_token == config.n_token:
        return []
    return [
        f"the data's vocabulary has {config.n_token} words but the file has {n_token}: "
        "check `data`, `dataset` and `cutoffs`"
    ]


def number_faults(found: Any, config: Any, names: Sequence[str]) -> list[str]:
    """The numbers, or names of choices, that differ between what a file shows and a configuration."""
    pairs = [(name, getattr(found, name), getattr(config, name)) for name in names]
    return [
        f"`{name}` is {wanted} but the file has {value}: pass `{name}` {value}"
        for name, value, wanted in pairs
        if value != wanted
    ]


def switch_faults(found: Any, config: Any, names: Sequence[str]) -> list[str]:
    """The switches that differ, of those that a file shows: None is one that it does not."""
    remedies = {True: "is off but the file has it: pass `{}`", False: "is on but the file has none: leave `{}` out"}
    return [
        f"`{name}` {remedies[shown].format(name)}"
        for name in names
        if (shown := getattr(found, name)) is not None and shown != getattr(config, name)
    ]


def wnorm_faults(found: bool, expected: bool) -> list[str]:
    """Whether one of file and configuration has weight normalisation."""
    if found == expected:
        return []
    if found:
        return ["`wnorm` is off but the file has weight normalisation: pass `wnorm`"]
    return ["`wnorm` is on but the file has no weight normalisation: leave `wnorm` out"]


def raise_if_any(faults: Sequence[str]) -> None:
    """Refuse a state dict that differs from a configuration.

    Args:
        faults: how they differ, a sentence each; none where they agree.

    Raises:
        ValueError: there are faults; all of them in one line.
    """
    if faults:
        raise ValueError(f"does not match the flags: {'; '.join(faults)}")


def without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefix that a data-parallel wrapper put before every name."""
    if not all(name.startswith("module.") for name in state):
        return state
    return {name.removeprefix("module."): value for name, value in state.items()}


def with_current_names(state: dict[str, Tensor], cell_copies: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A state dict of any generation under today's names.

    Those of 2019 and 2020 have copies of the cell, whose names begin with one of `cell_copies`, and projections of an
    adaptive embedding and softmax as bare parameters.
    """
    return {
        f"{name}.weight" if BARE_PROJECTION.search(name) else name: value
        for name, value in without_wrapper(state).items()
        if not name.startswith(cell_copies)
    }


def _div_val(widths: list[int], d_model: int, shapes: Shapes) -> int:
    if len(widths) == 1:
        return 2 if "word_emb.emb_projs.0.weight" in shapes.state and widths[0] == d_model else 1
    for div_val in range(2, widths[0] + 1):
        if all(widths[0] // div_val**i == width for i, width in enumerate(widths)):
            return div_val
    raise ValueError(f"its embeddings' widths {widths} follow no `div_val`: {shapes.remedy}")


def _cutoff_faults(found: tuple[int | None, ...], expected: tuple[int | None, ...]) -> list[str]:
    same = len(found) == len(expected) and all(a in (None, b) for a, b in zip(found, expected, strict=True))
    if same:
        return []
    given = f"`cutoffs` are {_joined(expected)}" if expected else "`adaptive` is off"
    if not found:
        return [f"{given} but the file has one bin: leave `adaptive` out"]
    if None in found:
        return [f"{given} but the file has {len(found)} cutoffs: pass `adaptive` `cutoffs` with as many numbers"]
    return [f"{given} but the file has {_joined(found)}: pass `adaptive` `cutoffs` {_joined(found)}"]


def _joined(numbers: Sequence[int | None]) -> str:
    return " ".join(map(str, numbers))
