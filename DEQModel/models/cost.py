"""What a model says of its cost: the parts of a step on one segment. A depth says how often f is applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.cost import Application, Piece
from modules.depth import Depth
from modules.solve_cost import DepthCost, depth_cost

NO_PIECE, NO_MAP = Piece(), Application()


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
        segment: what the step reads.
        embedding: from words to vectors.
        head: from states to losses.
        memory: entries that are handed to the next segment.
        layers: those that are applied once.
        context: the injection, and all else that is computed once a solve.
        f: one application of the cell; of no map where the model has no equilibrium.
        start_is_constant: whether no gradient goes to the state that a depth starts from.
    """

    segment: Segment
    embedding: Piece
    head: Piece
    memory: float
    layers: Piece = NO_PIECE
    context: Piece = NO_PIECE
    f: Application = NO_MAP
    start_is_constant: bool = True

    def times(self, depth: Depth) -> DepthCost:
        """How often a depth applies f, and what it costs beside that.

        Raises:
            ValueError: there are no formulas for such a depth.
        """
        n_batch = self.segment.n_batch
        return depth_cost(
            depth,
            n_batch,
            round(self.f.state / n_batch),
            training=self.segment.training,
            start_is_constant=self.start_is_constant,
        )
