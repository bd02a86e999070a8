"""Memory that runs out, told in the terms of the flags that would spare it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from system.errors import UserError

OUT_OF_MEMORY = re.compile(  # in messages of PyTorch that have no type of their own
    r"DefaultCPUAllocator: |not enough memory: you tried to allocate|CUDA error: out of memory|"
    r"CU\w+_STATUS_ALLOC_FAILED|Storage size calculation overflowed|^std::bad_alloc$"
)


@contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Around work that may need too much memory.

    Args:
        what: does not fit.
        remedy: the flags to change.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{what} does not fit into the memory: {remedy}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, and not something that merely has to do with it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
