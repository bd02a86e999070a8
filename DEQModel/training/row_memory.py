"""The memory that a model hands from segment to segment, taken apart and put together by rows.

A memory is a tensor or a tuple of tensors whose first dimension is the sequences of a batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Memory = Tensor | tuple[Tensor, ...]


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
