"""The processes that train together, as PyTorch's launcher `torchrun` or `system.launch` started them."""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from system.errors import UserError

T = TypeVar("T")
REACH = timedelta(minutes=5)  # to wait for the others to come
# To wait for the others in a collective: the first process may write a large file to a slow disk, and some have no row
# of a validation. It is for those that hang. One that dies is noticed sooner: by gloo at once, as its connections
# close; by NCCL on other machines, where its sockets report an error, while on the same one it may wait in shared
# memory until the launcher, torchrun or `system.launch`, ends it.
PATIENCE = timedelta(hours=2)
LOST = re.compile(  # in the messages of gloo, of NCCL, of the store, and of gloo at the second attempt
    "connection (closed|reset|refused)|broken pipe|timed out|remote (process|error)|communicator was aborted|"
    "wait timeout|timeout caused pair closure",
    re.IGNORECASE,
)
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")


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
    def join(cls, *, cuda: bool) -> "World":
        """The world that torchrun's environment variables tell of; one process where there are none.

        Args:
            cuda: whether each process computes on a GPU of its own.

        Raises:
            UserError: they make no sense, there are too few GPUs, or the others do not come.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        rank, size, local_rank = _place(os.environ)
        if cuda:
            _claim_gpu(local_rank)
        store = _meet(rank, size)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
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
        """A process's rows of a batch, this one's if none is named; `first` as for `shares`.

        Raises:
            UserError: see `shares`.
        """
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

    def see_agreement(self, mine: Mapping[str, Any]) -> None:
        """Compare what the processes are about to do: their files may be on different machines.

        Raises:
            UserError: on all of them, where some entry is not the same everywhere.
        """
        first, *others = self.gather(mine) or [mine]
        differences = [
            f"{name} is {first[name]} in process 0 and {other[name]} in process {rank}"
            for rank, other in enumerate(others, start=1)
            for name in first
            if other[name] != first[name]
        ]
        if differences := self.of_first(differences):
            raise UserError(
                f"the processes differ: {'; '.join(differences)}: give all of them the same flags and files"
            )

    @torch.no_grad()
    def copy_from_first(self, module: nn.Module) -> None:
        """Give all processes' modules the parameters and buffers of the first one's."""
        if self.size == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            values = tensor.cpu().contiguous()
            dist.broadcast(values, src=0, group=self.group)
            tensor.copy_(values)

    def part(self, n: int) -> "World | None":
        """The first n processes as a world of their own, None in the others. All must call this alike."""
        if n not in self._parts:
            self.sum(np.zeros(1))  # notices that a process has died; a new group would wait for it
            group = dist.new_group(list(range(n)), backend="gloo", timeout=PATIENCE) if n > 1 else None
            self._parts[n] = World(self.rank, n, self.local_rank, group) if self.rank < n else None
        return self._parts[n]


def _place(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(RANK, WORLD_SIZE, LOCAL_RANK)."""
    missing = [name for name in VARIABLES if not environment.get(name)]
    if not environment["WORLD_SIZE"].isdecimal() or environment["WORLD_SIZE"] == "0":
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']!r}, which is no number of processes: start them with torchrun, "
            "or unset WORLD_SIZE for a single one"
        )
    if missing:
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']!r}, but {', '.join(missing)} is not set: start the processes "
            "with torchrun, or unset WORLD_SIZE for a single one"
        )
    numbers = {name: environment[name] for name in NUMBERS}
    sound = all(number.isdecimal() for number in numbers.values())
    if not sound or not int(numbers["LOCAL_RANK"]) <= int(numbers["RANK"]) < int(numbers["WORLD_SIZE"]):
        place = ", ".join(f"{name} {number!r}" for name, number in numbers.items())
        raise UserError(f"{place} are no process's place among others: start the processes with torchrun")
    return int(numbers["RANK"]), int(numbers["WORLD_SIZE"]), int(numbers["LOCAL_RANK"])


def _claim_gpu(local_rank: int) -> None:
    """Compute on the GPU of this number."""
    n_gpus = torch.cuda.device_count()
    n_processes = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), local_rank + 1)
    if n_processes > n_gpus:
        raise UserError(
            f"{n_processes} processes on this machine are more than its {n_gpus} GPUs: start one for each (torchrun "
            f"--nproc-per-node {n_gpus}), or leave --cuda out"
        )
    torch.cuda.set_device(local_rank)


def _meet(rank: int, size: int) -> dist.Store:
    """The store through which the processes find each other, once all of them have come."""
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=REACH))
        store.set(f"arrived/{rank}", "")
        store.wait([f"arrived/{other}" for other in range(size)], REACH)  # groups would wait as long as collectives do
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise UserError(
            f"process {rank} of {size} did not meet the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({reason}): check MASTER_ADDR and MASTER_PORT, the network, and that all "
            "processes were started"
        ) from error
    return store


def shares(n_rows: int, n_parts: int, first: int = -1) -> list[range]:
    """Consecutive rows 0 … n_rows - 1 for each of several processes: even ones, the larger first.

    Args:
        n_rows: sequences of a batch.
        n_parts: processes.
        first: rows of the first of several processes; −1 for an even share.

    Raises:
        UserError: a process would be left without a row.
    """
    apart = [first] if first != -1 and n_parts > 1 else []
    rest, n_even = n_rows - sum(apart), n_parts - len(apart)
    if apart and (rest < n_even or first < 1):
        raise UserError(
            f"--gpu0_bsz {first} of --batch_size {n_rows} sequences for the first of {n_parts} processes leaves some "
            "of them without a sequence: choose between 1 and the batch size less one for each other process"
        )
    if rest < n_even:
        raise UserError(
            f"--batch_size {n_rows} leaves some of {n_parts} processes without a sequence: raise it, or start fewer "
            "processes"
        )
    sizes = [*apart, *(rest // n_even + (i < rest % n_even) for i in range(n_even))]
    edges = np.cumsum([0, *sizes]).tolist()
    return [range(low, high) for low, high in pairwise(edges)]


def sum_gradients(group: dist.ProcessGroup | None, bucket: dist.GradBucket) -> Future[Tensor]:
    """DistributedDataParallel's communication: the sum over the processes, each of which has its share of the loss."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def lost_contact(error: BaseException) -> bool:
    """Whether an error says that another process has gone, or answers no more."""
    return isinstance(error, RuntimeError) and LOST.search(str(error)) is not None


def brief(error: BaseException) -> str:
    """The first sentence of a message of gloo or NCCL, without its place in their code."""
    return re.sub(r"^\[\S+\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
