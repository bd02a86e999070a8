"""What a language model makes of a text that it reads: what comes next, and a memory to read on with.

Shapes: N tokens, B rows, V words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.protocol import LanguageModel, Memory
from modules.depth import Depth
from modules.report import SolveReport


@dataclass(frozen=True)
class Reading:
    """Where a model stands behind a text.

    Attributes:
        log_p: log-probability of every word as the next one (B, V).
        memory: of what has been read.
        solves: those that it took; none where nothing was solved.
    """

    log_p: Tensor
    memory: Memory
    solves: tuple[SolveReport, ...]

    def select(self, rows: Tensor) -> Reading:
        """The same for these rows (b,), in their order; a row may come several times."""
        memory = self.memory
        chosen = memory[rows] if isinstance(memory, Tensor) else tuple(part[rows] for part in memory)
        return Reading(self.log_p[rows], chosen, self.solves)


@torch.no_grad()
def read(model: LanguageModel, tokens: Tensor, memory: Memory | None, depth: Depth, segment: int) -> Reading:
    """Read on.

    Of a text that the memory still holds whole, the result is the same whether it is read at once or token by token, as
    far as the solves are exact: a state depends on what comes before it alone.

    Args:
        model: in evaluation mode.
        tokens: the next ones, (N, B) with N ≥ 1.
        memory: a `Reading`'s, of what has been read before; None for nothing.
        depth: how deep the model goes.
        segment: tokens that are read at once.
    """
    model, solves = model.for_reading(), []
    for part in tokens.split(segment):
        hidden = model.hidden(part, memory, depth)
        memory = hidden.memory
        if hidden.solve is not None:
            solves.append(hidden.solve.forward)
    return Reading(model.head.log_prob(hidden.states[-1]), memory, tuple(solves))
