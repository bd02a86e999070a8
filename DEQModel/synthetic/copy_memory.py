"""Copy memory: ten symbols, a long time of blanks, and a marker that asks for the symbols."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from synthetic.task import Examples

N_COPIED = 10  # symbols of a sequence
BLANK, MARKER = 0, 9  # the symbols are what lies between


@dataclass(frozen=True)
class CopyMemory:
    """Ten symbols from 1 … 8, T blanks, a marker, nine blanks; the targets are blank but for the last ten, the symbols.

    The first symbol is due at the marker itself, T + 10 positions after it was seen. All positions count.

    Source: Hochreiter and Schmidhuber's problem in the form of Bai, Kolter and Koltun, arXiv 1803.01271, section 4.
    """

    @property
    def n_token(self) -> int:
        """V: blank, symbols, marker."""
        return MARKER + 1

    def length(self, seq_len: int) -> int:
        """L, which is T + 20 for `seq_len` T."""
        return seq_len + 2 * N_COPIED

    def examples(self, n: int, seq_len: int, generator: torch.Generator) -> Examples:
        """n new sequences with `seq_len` blanks between symbols and marker."""
        symbols = torch.randint(BLANK + 1, MARKER, (N_COPIED, n), generator=generator)
        tokens = torch.full((self.length(seq_len), n), BLANK)
        targets = tokens.clone()
        tokens[:N_COPIED] = targets[-N_COPIED:] = symbols
        tokens[-N_COPIED] = MARKER
        return Examples(tokens, targets, torch.ones_like(tokens, dtype=torch.bool))


def guessing(seq_len: int) -> float:
    """The loss of a model that knows where symbols are due, and not which: nats a position."""
    return N_COPIED * math.log(MARKER - 1) / (seq_len + 2 * N_COPIED)
