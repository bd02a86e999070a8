"""What a synthetic task is: examples that are made in code, from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Generator, Tensor


@dataclass(frozen=True)
class Examples:
    """Sequences, what is to be said at each of their positions, and where that counts."""

    tokens: Tensor  # (L, B) int64
    targets: Tensor  # (L, B) int64
    counted: Tensor  # (L, B) bool: the positions whose loss and accuracy count


class Task(Protocol):
    """A frozen dataclass whose fields are the task's options.

    Attributes:
        n_token: V; tokens and targets are below it.
    """

    @property
    def n_token(self) -> int: ...

    def length(self, seq_len: int) -> int:
        """L of the sequences that `seq_len` asks for."""

    def examples(self, n: int, seq_len: int, generator: Generator) -> Examples:
        """n new sequences."""
