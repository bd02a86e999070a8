"""The memory that a model hands from segment to segment, taken apart and put together by rows.

A memory is a tensor or a tuple of tensors whose first dimension is the sequences of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.protocol import Memory
from system.distributed import World


def joined(parts: Sequence[Memory | None]) -> Memory | None:
    """The memory of all rows, of those of some rows each; None where there is none yet."""
    if any(part is None for part in parts):
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def rows_of(memory: Memory | None, rows: range, device: torch.device | str) -> Memory | None:
    """The memory of consecutive rows, on a device."""
    if memory is None:
        return None
    if isinstance(memory, Tensor):
        return memory[rows.start : rows.stop].to(device)
    return tuple(tensor[rows.start : rows.stop].to(device) for tensor in memory)


def forget_nonfinite(memory: Memory) -> Memory:
    """The same with 0 in every row that is not finite: it would spoil all segments to come."""
    if isinstance(memory, Tensor):
        sound = memory.flatten(1).isfinite().all(1) if memory.dim() > 1 else memory.isfinite()
        return torch.where(sound.view(-1, *[1] * (memory.dim() - 1)), memory, 0)
    return tuple(forget_nonfinite(tensor) for tensor in memory)


class ChunkMemories:
    """The memories of this process's chunks of a batch; part of a run's state.

    Args:
        n_chunks: parts in which the rows are computed.
        rows: this process's rows of a batch.
        device: where they are computed.
        world: the processes; a checkpoint has the memory of all rows, so that their number may change.
    """

    ENTRIES = ("memory",)

    def __init__(self, n_chunks: int, rows: range, device: torch.device, world: World):
        self.rows, self.device, self.world = rows, device, world
        self.chunks: list[Memory | None] = [None] * n_chunks

    def clear(self) -> None:
        """Begin a text."""
        self.chunks = [None] * len(self.chunks)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; all processes take part, and the first one has the result."""
        parts = self.world.gather(joined(self.chunks))
        return {"memory": joined(parts) if parts else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, with this process's rows of it."""
        mine = rows_of(state["memory"], self.rows, self.device)
        chunks = np.array_split(np.arange(len(self.rows)), len(self.chunks))
        self.chunks = [rows_of(mine, range(rows[0], rows[-1] + 1), self.device) for rows in chunks]
