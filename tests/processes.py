"""Whole runs of the training script in several processes of this machine, in double precision."""

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from diverging import ruined

import train_transformer
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from models.transformers.spec import SPEC
from training.recipe import program
from training.trainer import Trainer
from training.update import Update

HUGE = 1e200  # a factor that weights in double precision bear, and products of them do not


@dataclass(frozen=True)
class Job:
    """A command line, a folder for what the processes print, and what is done to one of them.

    Attributes:
        of_others: the command line of the processes after the first, where it is another.
        ailing: the rank of the process that `number` is sent to by itself, in the update that ends with step `at`.
        ruined: the step whose update leaves weights that give no finite loss any more; 0 for none.
    """

    argv: tuple[str, ...]
    place: Path
    ailing: int = -1
    at: int = 0
    number: int = signal.SIGKILL
    of_others: tuple[str, ...] | None = None
    ruined: int = 0


def checkpoint(folder: Path) -> dict:
    """The run's last checkpoint."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def losses(folder: Path) -> list[float]:
    """Of the updates that the first process made."""
    return json.loads((folder / "losses.json").read_text())


def run_in(n: int, jobs: Sequence[Job]) -> list[list[int]]:
    """Run each job in n processes, one job after the other; exit statuses by job and rank."""
    if n == 1:
        return [[_work(job)] for job in jobs]
    stores = [dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False) for _ in jobs]
    ports = [store.port for store in stores]
    context = multiprocessing.start_processes(_member, (n, tuple(jobs), ports), n, join=False, start_method="spawn")
    for process in context.processes:
        process.join(120)
        if process.is_alive():
            process.kill()
            pytest.fail("a process hangs")
    statuses = [json.loads((jobs[0].place / f"statuses-{n}-{rank}").read_text()) for rank in range(n)]
    return [list(of_job) for of_job in zip(*statuses, strict=True)]


def _member(rank: int, n: int, jobs: Sequence[Job], ports: Sequence[int]) -> None:
    torch.set_num_threads(1)
    statuses = []
    for job, port in zip(jobs, ports, strict=True):
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(n),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        statuses.append(_work(job, rank))
    (jobs[0].place / f"statuses-{n}-{rank}").write_text(json.dumps(statuses))


def in_double(config: DEQTransformerConfig) -> DEQTransformerLM:
    """The model in double precision."""
    return DEQTransformerLM(config).double()


def _work(job: Job, rank: int = 0) -> int:
    """The script's main in double precision, recording every update's loss."""
    seen = []
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(train_transformer, "main", program(replace(SPEC, build=in_double)))
        update = Trainer.update

        def recorded(trainer: Trainer, *given: object) -> Update:
            if (rank, trainer.progress.step + 1) == (job.ailing, job.at):
                os.kill(os.getpid(), job.number)
            made = update(trainer, *given)
            seen.append(made.loss)
            if trainer.experiment.folder:
                (trainer.experiment.folder / "losses.json").write_text(json.dumps(seen))
            return made

        patch.setattr(Trainer, "update", recorded)
        if job.ruined:
            stack.enter_context(ruined(job.ruined, HUGE))
        for name, redirect in (("out", contextlib.redirect_stdout), ("err", contextlib.redirect_stderr)):
            stack.enter_context(redirect(stack.enter_context(open(job.place / f"{name}-{rank}", "w"))))
        if rank:
            patch.setattr("system.script.OF_ALL", 0)
        status = train_transformer.main((rank and job.of_others) or job.argv)
    if dist.is_initialized():
        dist.destroy_process_group()
    return status
