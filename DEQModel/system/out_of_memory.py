"""Memory that runs out, told in the terms of the flags that would spare it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from system.errors import UserError

OUT_OF_MEMORY = re.compile("allocate|out of memory|overflow")  # in PyTorch's messages


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
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error))
        if not known:
            raise
        raise UserError(f"{what} does not fit into the memory: {remedy}") from error
