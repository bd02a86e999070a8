"""What a model is to the rest of the program, and what its cell is to the solver.

Shape legend: B sequences, L positions of a segment, M of the memory, K = M + L, D width of the states, V words.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from models.context import Context
from models.cost import ModelCost, Segment
from modules.depth import Depth
from modules.report import SolveInfo

Memory = Tensor | tuple[Tensor, ...]  # what a segment hands to the next, (B, *) each, detached
C = TypeVar("C", bound=Context)


class Cell(Protocol[C]):
    """The weight-tied map f(z; context): (B, L, D) -> (B, L, D).

    Attributes:
        d_injection: channels of the injection u that it takes.
    """

    d_injection: int

    def context(self, memory: Tensor, injection: Tensor, positions: Any) -> C:
        """What stays fixed during a solve.

        Args:
            memory: the memory's states (B, M, D), M may be 0.
            injection: u over the current positions, and over the memory's where the cell asks for it (B, L or K,
                d_injection).
            positions: what the cell needs to know of the positions' places.
        """

    def __call__(self, z: Tensor, context: C) -> Tensor:
        """f(z)."""


@dataclass(frozen=True)
class CellMap(Generic[C]):
    """f as a function of z alone, the same for some of the sequences, and prepared for many evaluations."""

    cell: Cell[C]
    context: C

    def __call__(self, z: Tensor) -> Tensor:
        return self.cell(z, self.context)

    def select(self, rows: Tensor) -> CellMap[C]:
        """The map of these sequences (b,) alone."""
        return CellMap(self.cell, self.context.select(rows))

    def cast(self, dtype: torch.dtype) -> CellMap[C]:
        """The same map in another floating-point dtype."""
        return CellMap(self.cell, self.context.to(dtype))

    def pack(self, z: Tensor) -> CellMap[C]:
        """The same map with prepared weights, for states like z."""
        return CellMap(self.cell, self.context.pack(z.shape[:-1].numel()))

    def adjoint(self, z: Tensor) -> CellMap[C] | None:
        """The same map for many products with its transposed Jacobian by states like z; None where nothing is gained.

        No gradient goes to anything but its argument.
        """
        context = self.context.detach().adjoint(z.shape[:-1].numel())
        return None if context is None else CellMap(self.cell, context)


class Head(Protocol):
    """Scores of words from hidden states."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those that it is made of."""

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood in nats: (L, B, D), (L, B) -> (L, B)."""

    def log_prob(self, hidden: Tensor) -> Tensor:
        """Log-probability of every word: (N, D) -> (N, V)."""


class Problem(NamedTuple):
    """An equilibrium problem: z = f(z) from z0."""

    f: Callable[[Tensor], Tensor]
    z0: Tensor


@dataclass(frozen=True)
class Hidden:
    """What a segment comes to before the head."""

    states: Tensor  # (L, B, D), after the output dropout
    memory: Memory
    solve: SolveInfo | None  # None where nothing was solved
    raw: Tensor  # (L, B, D), the states before the output dropout


@dataclass(frozen=True)
class LMOutput:
    """One segment's result."""

    nll: Tensor  # (L, B), negative log-likelihood of each target in nats
    memory: Memory
    solve: SolveInfo | None
    states: Tensor  # (L, B, D), after the output dropout
    raw: Tensor  # (L, B, D), before it


class LanguageModel(nn.Module, ABC):
    """Tokens and a memory in; hidden states, their scores and the next memory out. Nothing is kept between calls.

    How deep an equilibrium goes is not the model's: a `Depth` comes with each call.

    Attributes:
        config: its settings, a dataclass.
        reach: names of those that a built model may be given anew, as the length of its memory: no parameter depends
            on them.
        head: scores hidden states.
        memory_length: positions of the text that the memory tells of, at most.
    """

    config: Any
    reach: Collection[str] = ()
    head: Head
    memory_length: int

    @abstractmethod
    def hidden(self, tokens: Tensor, memory: Memory | None, depth: Depth) -> Hidden:
        """The states of one segment.

        Args:
            tokens: word ids (L, B), int64.
            memory: of the segment before, None for the first one.
            depth: maps (f, z0) to z; a `DEQModule` for the equilibrium. Models without one leave it aside.
        """

    @abstractmethod
    def embedding_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of the word embedding."""

    def forward(self, tokens: Tensor, targets: Tensor, memory: Memory | None, depth: Depth) -> LMOutput:
        """Scores one segment.

        Args:
            tokens, memory, depth: as for `hidden`.
            targets: the ids that follow the tokens (L, B).
        """
        hidden = self.hidden(tokens, memory, depth)
        nll = self.head.nll(hidden.states, targets)
        return LMOutput(nll, hidden.memory, hidden.solve, hidden.states, hidden.raw)

    def for_reading(self) -> LanguageModel:
        """A model of these parameters that reads a text in segments of any length as it reads it at once.

        That is this one, unless what it is trained and scored with forgets at a segment's start what its memory could
        hold. The memory of the model that is returned may be another than this one's.
        """
        return self

    def with_config(self, config: Any) -> LanguageModel:
        """A model of these parameters under other settings.

        Raises:
            ValueError: they differ in one that is not in `reach`.
        """
        for name, value in vars(config).items():
            if name not in self.reach and value != getattr(self.config, name):
                raise ValueError(
                    f"`{name}` belongs to the model's build: choose from {', '.join(self.reach) or 'none'}"
                )
        other = copy.copy(self)  # its tensors and submodules are this one's
        other.config = config
        return other


class EquilibriumModel(LanguageModel):
    """A language model whose states solve a problem."""

    @abstractmethod
    def problem(self, tokens: Tensor, memory: Memory | None) -> Problem:
        """The map and the start that `hidden` hands to its depth."""


class WeightsAdapter(Protocol):
    """What only a model knows about files of its weights."""

    def recognises(self, state: dict[str, Tensor]) -> bool:
        """Whether a state dict of any generation is of such a model, going by its names."""

    def modern(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of any generation under the current names and shapes."""

    def check(self, state: dict[str, Tensor], config: Any) -> None:
        """Compare the settings that the shapes show with a configuration.

        Raises:
            ValueError: they differ; all differences in one line.
        """


@dataclass(frozen=True)
class ModelSpec:
    """All that a recipe needs of a model.

    ValueErrors of these functions name settings in backticks, which the command line turns into flags.

    Attributes:
        name: for people.
        program: the script that trains it.
        flags: a frozen dataclass of the settings that the model has beside the shared ones, made of `flag` fields.
        resolve: settings to the values, by name, of those whose default rests on another setting.
        configure: settings and V to the model's configuration; ValueError where they contradict each other.
        build: a model from that.
        initialise: draws its parameters, as the settings say.
        weights: reads files of its weights.
        is_equilibrium: whether it goes as deep as it is asked to, an `EquilibriumModel`; others go as deep as they are
            built, and have no settings of stages, solves and gradients.
        cost: of a configuration and a segment; None where there are no formulas.
    """

    name: str
    program: str
    flags: type
    resolve: Callable[[Any], Mapping[str, Any]]
    configure: Callable[[Any, int], Any]
    build: Callable[[Any], LanguageModel]
    initialise: Callable[[LanguageModel, Any], None]
    weights: WeightsAdapter
    is_equilibrium: bool = True
    cost: Callable[[Any, Segment], ModelCost] | None = None
