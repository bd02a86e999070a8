"""What a synthetic task is: examples that are made in code, from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Examples:
    tokens: Tensor  # (L, B) int64
    targets: Tensor  # (L, B) int64
    counted: Tensor  # (L, B) bool: the positions whose loss and accuracy count


class Task(Protocol):
    n_token: int
    n_class: int

    def length(self, seq_len: int) -> int: ...

    def examples(self, n: int, seq_len: int, seed: int) -> Examples: ...
