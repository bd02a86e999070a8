"""Memory that has run out is told apart from errors that merely speak of it."""

import pytest
import torch

from system.errors import UserError
from system.out_of_memory import enough_memory, is_out_of_memory


def message_of(call) -> RuntimeError:
    """The error that PyTorch raises here."""
    with pytest.raises(RuntimeError, match=r"memory|overflow") as caught:
        call()
    return caught.value


OUT_OF_MEMORY = {
    "the allocator of a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "Python": MemoryError,
    "the allocator of the CPU": lambda: message_of(lambda: torch.empty(10**14)),
    "a size that no integer holds": lambda: message_of(lambda: torch.empty(2**62, 2**62)),
}
OTHERS = (
    RuntimeError("integer overflow in index"),
    RuntimeError("cannot allocate a name for the buffer"),
    RuntimeError("the stack is out of memory addresses to name"),
    ValueError("DefaultCPUAllocator: "),
)


@pytest.mark.parametrize("source", OUT_OF_MEMORY)
def test_memory_that_ran_out_is_told_with_its_remedy(source):
    error = OUT_OF_MEMORY[source]()
    assert is_out_of_memory(error)
    with pytest.raises(UserError, match=r"^the model does not fit into the memory: lower it$"):  # noqa: SIM117
        with enough_memory("the model", "lower it"):
            raise error


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_pass(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, enough_memory("the model", "lower it"):
        raise error
    assert caught.value is error


def test_the_allocator_of_c_is_told_by_its_whole_message():
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("caught std::bad_alloc in a thread"))
