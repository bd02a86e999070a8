"""The processes that train together, as PyTorch's launcher `torchrun` or `utils.launch` started them."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from utils.errors import UserError

T = TypeVar("T")
REACH = timedelta(minutes=5)  # to wait for the others to come
# To wait for the others in a collective: the first process may write a large file to a slow disk, and some have no row
# of a validation. It is for those that hang. One that dies is noticed sooner: by gloo at once, as its connections
# close; by NCCL on other machines, where its sockets report an error, while on the same one it may wait in shared
# memory until the launcher, torchrun or `utils.launch`, ends it.
PATIENCE = timedelta(hours=2)
LOST = re.compile(
    "connection (closed|reset|refused)|broken pipe|timed out|wait timeout|timeout caused pair closure|"
    "remote (process|error)|communicator was aborted",
    re.IGNORECASE,
)
# Seconds before a process tells of its error, where another one is likely to have the cause of it, or the same.
AFTER_THE_FIRST, AFTER_THE_CAUSE = 3, 5
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class World:
    """The processes that train together, and this one's place among them.

    One process is a world of its own, in which nothing is communicated. In a larger one the numbers and values of the
    host go through a gloo group of their own; the default group is left to the gradients.

    Args:
        rank: number of this process.
        size: how many there are.
        local_rank: number of this process on its machine, which is that of its GPU.
        group: for what the hosts exchange; None where there is but one.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, group: dist.ProcessGroup | None = None):
        self.rank, self.size, self.local_rank, self.group = rank, size, local_rank, group
        self._parts: dict[int, World | None] = {size: self}

    @classmethod
    def join(cls, *, cuda: bool, environment: Mapping[str, str] = os.environ) -> "World":
        """The world that torchrun's environment variables tell of; one process where there are none.

        Args:
            cuda: whether each process computes on a GPU of its own.
            environment: read for RANK, LOCAL_RANK and WORLD_SIZE.

        Raises:
            UserError: they make no sense, there are too few GPUs, or the others cannot be reached.
        """
        if environment.get("WORLD_SIZE", "1") == "1":
            return cls()
        rank, size, local_rank = _place(environment)
        if cuda:
            _claim_gpu(local_rank, int(environment.get("LOCAL_WORLD_SIZE", local_rank + 1)))
        store = _meet(rank, size, f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}")
        dist.init_process_group(
            "nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE
        )
        return cls(rank, size, local_rank, dist.new_group(backend="gloo", timeout=PATIENCE))

    def leave(self) -> None:
        """Part from the others, as the last thing that is done."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def device(self, cuda: bool) -> torch.device:
        """The device of this process."""
        if not cuda:
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank) if self.size > 1 else torch.device("cuda")

    def rows(self, batch_size: int, first: int = -1, rank: int | None = None) -> range:
        """A process's rows of a batch, this one's if none is named; `first` as for `shares`, where there are several.

        Raises:
            UserError: see `shares`.
        """
        first = first if self.size > 1 else -1
        return shares(batch_size, self.size, first)[self.rank if rank is None else rank]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Σ over the processes of float64 numbers (k,), to the same bits on all."""
        if self.size == 1:
            return values
        total = torch.from_numpy(np.array(values, dtype=np.float64))
        dist.all_reduce(total, group=self.group)
        return total.numpy()

    def gather(self, value: T) -> list[T]:
        """All processes' values, by rank, on the first; nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def of_first(self, value: T) -> T:
        """The first process's value, on all."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def copy_from_first(self, module: nn.Module) -> None:
        """Give all processes' modules the parameters and buffers of the first one's."""
        if self.size > 1:
            for tensor in module.state_dict(keep_vars=True).values():
                dist.broadcast(tensor.detach(), src=0)

    def part(self, n: int) -> "World | None":
        """The first n processes as a world of their own, None in the others. All must call this alike."""
        if n not in self._parts:
            group = dist.new_group(list(range(n)), backend="gloo", timeout=PATIENCE)
            inside = self.rank < n
            self._parts[n] = World(self.rank, n, self.local_rank, group if n > 1 else None) if inside else None
        return self._parts[n]


def _place(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(RANK, WORLD_SIZE, LOCAL_RANK)."""
    missing = [name for name in VARIABLES if name not in environment]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    numbers = [environment[name] for name in VARIABLES[:3]]
    if not all(number.isdigit() for number in numbers) or not int(numbers[0]) < int(numbers[1]):
        told = ", ".join(f"{name} {environment[name]!r}" for name in VARIABLES[:3])
        raise UserError(f"{told} are no process's place among others: start the processes with torchrun")
    rank, size, local_rank = map(int, numbers)
    return rank, size, local_rank


def _claim_gpu(local_rank: int, n_local: int) -> None:
    """Make the GPU of that number the current one."""
    n_gpus = torch.cuda.device_count()
    if max(n_local, local_rank + 1) > n_gpus:
        raise UserError(
            f"there are {n_local} processes on this machine, and {n_gpus} GPUs: start one process for each GPU "
            f"(torchrun --nproc-per-node {max(n_gpus, 1)}), or leave --cuda out"
        )
    torch.cuda.set_device(local_rank)


def _meet(rank: int, size: int, address: str) -> dist.Store:
    """The store through which the processes find each other, once all of them are there.

    Raises:
        UserError: it cannot be reached, or not all have come in time.
    """
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=REACH))
        store.set(f"arrived/{rank}", "")
        store.wait([f"arrived/{other}" for other in range(size)], REACH)  # groups would wait for as long as collectives
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {rank} of {size} did not meet the others at {address} ({str(error).splitlines()[0]}): check "
            "MASTER_ADDR and MASTER_PORT, the network, and that every machine was started"
        ) from error
    return store


def shares(n_rows: int, n_parts: int, first: int = -1) -> list[range]:
    """Consecutive rows 0 … n_rows - 1 for each of several processes: even ones, the larger first.

    Args:
        n_rows: sequences of a batch.
        n_parts: processes.
        first: rows of the first process; −1 for an even share.

    Raises:
        UserError: a process would be left without a row.
    """
    if first != -1 and n_parts > 1 and n_rows - first < n_parts - 1:
        raise UserError(
            f"--gpu0_bsz {first} leaves {max(n_rows - first, 0)} of --batch_size {n_rows} sequences for {n_parts - 1} "
            "other processes: lower it, or raise --batch_size"
        )
    if n_rows < n_parts:
        raise UserError(
            f"--batch_size {n_rows} leaves some of {n_parts} processes without a sequence: raise it, or start fewer "
            "processes"
        )
    rest = n_rows if first == -1 else n_rows - first
    n_even = n_parts if first == -1 else n_parts - 1
    sizes = [] if first == -1 else [first]
    sizes += [rest // n_even + (i < rest % n_even) for i in range(n_even)]
    edges = np.cumsum([0, *sizes]).tolist()
    return [range(low, high) for low, high in pairwise(edges)]


def sum_gradients(group: dist.ProcessGroup | None, bucket: dist.GradBucket) -> Future[Tensor]:
    """DistributedDataParallel's communication: the sum over the processes, each of which has its share of the loss."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def lost_contact(error: BaseException) -> bool:
    """Whether an error says that another process has gone, or answers no more."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and LOST.search(str(error)) is not None
    )
