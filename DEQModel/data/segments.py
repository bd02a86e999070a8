"""What training and evaluation ask of batches.

Shapes: L tokens of a segment, B sequences of a batch.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor


class Segment(Protocol):
    """L consecutive tokens of B rows, and what follows each: (L, B) int64 both."""

    tokens: Tensor
    targets: Tensor


class TrainingSegment(Segment, Protocol):
    """With its position in the stream of training tokens."""

    start: int


class TrainingBatches(Protocol):
    """This process's rows of the training text; part of a run's state."""

    ENTRIES: tuple[str, ...]

    def from_position(self, start: int) -> Iterator[TrainingSegment]:
        """The segments of an epoch from a position on."""

    def state(self) -> Mapping[str, Any]:
        """Of the generator of their lengths, where there is one: entries of a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the generator in that state."""
