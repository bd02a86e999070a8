"""What a model says of its cost: the parts of a step on one segment. A depth says how often f is applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.cost import Application, Piece


@dataclass(frozen=True)
class Segment:
    """What one step reads.

    Attributes:
        n_batch: B sequences.
        n_position: L positions each.
        training: whether dropout is on.
        shares: of the tokens in each bin of an adaptive softmax; none where there are no bins.
    """

    n_batch: int
    n_position: int
    training: bool
    shares: Sequence[float] = (1.0,)

    @property
    def n_tokens(self) -> int:
        """B·L."""
        return self.n_batch * self.n_position


@dataclass(frozen=True)
class ModelCost:
    """The parts of a step on one segment.

    Attributes:
        embedding: from words to vectors.
        context: the injection, and all else that is computed once a solve.
        f: one application of the cell.
        head: from states to losses.
        memory: entries that are handed to the next segment.
    """

    embedding: Piece
    context: Piece
    f: Application
    head: Piece
    memory: float
