"""Worlds of real processes, over gloo: what they exchange, how they meet and part, and how they share an evaluation."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from golden_models import GoldenModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from config.depth import equilibrium
from config.settings import Settings
from data.batches import OrderedBatches
from evaluation.evaluation import EVAL_ROWS, evaluate
from evaluation.report import EvaluationReport
from modules.depth import Applications
from system import distributed
from system.distributed import World, lost_contact, shares
from system.errors import UserError

HOST = "127.0.0.1"
AWKWARD = [0.1, 1e16, -1e16, 3.3, np.inf, np.nan]  # sums that depend on the order
SOLVERS = [
    {"solver": solver, "stop_scope": scope, "stop_mode": mode, "f_eps": 3e-2, "f_thres": 12}
    for (solver, mode), scope in product([("anderson", "rel"), ("broyden", "abs")], ["batch", "sequence"])
]


def meeting_place() -> dist.TCPStore:
    """A store, kept by this process as torchrun's agent keeps one, through which the processes of a world meet."""
    return dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)


def variables(store: dist.TCPStore, rank: int, size: int) -> dict[str, str]:
    """torchrun's environment."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    where = {"MASTER_ADDR": HOST, "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    return {name: str(value) for name, value in (place | where).items()}


def in_world(size: int, work: Callable[[World], Any], folder: Path, *, lost: int | None = None) -> list[Any]:
    """What `work` returns in each process of a world, by rank, one that is `lost` on the way apart."""
    store = meeting_place()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "torch.nn.parallel"])  # imported once, not by each process
    processes = [
        context.Process(target=_member, args=(variables(store, rank, size), work, folder / f"{size}_{rank}"))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    survivors = [rank for rank in range(size) if rank != lost]
    assert [processes[rank].exitcode for rank in survivors] == [0] * len(survivors)
    return [pickle.loads((folder / f"{size}_{rank}").read_bytes()) for rank in survivors]


def _member(environment: dict[str, str], work: Callable[[World], Any], path: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    world = World.join(cuda=False)
    path.write_bytes(pickle.dumps(work(world)))
    world.leave()


class Buffered(nn.Module):
    """Parameters that are one, transposed, or short; and a buffer of whole numbers that no checkpoint holds."""

    def __init__(self, seed: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 2), seed).t())
        self.tied = self.weight
        self.short = nn.Parameter(torch.full((4,), seed, dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor(int(seed)), persistent=False)


def exchange(world: World) -> dict[str, Any]:
    """All that a world can do."""
    part = world.part(2)
    assert world.part(2) is part  # no second group
    assert world.part(world.size) is world
    module = Buffered(world.rank + 1.0)
    world.copy_from_first(module)
    return {
        "place": (world.rank, world.size, world.local_rank, world.is_first, str(world.device(cuda=False))),
        "sum": world.sum(np.roll(AWKWARD, world.rank)).tobytes(),
        "whole": world.sum(np.array([world.rank, 1])).tolist(),
        "gather": world.gather({"rank": world.rank, "state": torch.full((2,), world.rank)}),
        "first": world.of_first(["from", world.rank]),
        "part": part and (part.rank, part.size, part.sum(np.ones(1)).tolist(), part.of_first(world.rank)),
        "alone": world.part(1) and world.part(1).size,
        "rows": (world.rows(7), world.rows(7, 1), world.rows(7, 1, rank=0)),
        "copied": [tensor.unique().tolist() for tensor in (module.weight, module.short, module.count)],
    }


@pytest.mark.parametrize("size", [2, 3])
def test_processes_exchange_numbers_values_and_modules(tmp_path, size):
    results = in_world(size, exchange, tmp_path)
    first, *others = results
    assert [result["place"] for result in results] == [(i, size, i, i == 0, "cpu") for i in range(size)]
    assert {result["sum"] for result in results} == {first["sum"]}
    assert {tuple(result["whole"]) for result in results} == {(sum(range(size)), size)}
    assert [entry["rank"] for entry in first["gather"]] == list(range(size))
    assert [entry["state"].tolist() for entry in first["gather"]] == [[i, i] for i in range(size)]
    assert [result["gather"] for result in others] == [[]] * (size - 1)
    assert [result["first"] for result in results] == [["from", 0]] * size
    assert [result["part"] for result in results[:2]] == [(0, 2, [2.0], 0), (1, 2, [2.0], 0)]
    assert [result["part"] for result in results[2:]] == [None] * (size - 2)
    assert [result["alone"] for result in results] == [1] + [None] * (size - 1)
    assert first["rows"][1:] == (range(0, 1), range(0, 1))
    assert others[-1]["rows"][0].stop == others[-1]["rows"][1].stop == 7
    assert [result["copied"] for result in results] == [[[1.0], [1.0], [1]]] * size


def test_one_process_communicates_nothing():
    world, values, module = World(), np.ones(2), Buffered(3.0)
    assert world.sum(values) is values
    assert world.gather(values) == [values]
    assert world.of_first(values) is values
    assert world.part(1) is world
    assert world.rows(5, 3) == range(5)
    world.copy_from_first(module)
    assert module.count == 3
    assert world.is_first
    assert str(world.device(cuda=True)) == "cuda"
    world.leave()
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("n_rows", "n_parts", "first", "sizes"),
    [
        (7, 1, -1, [7]),
        (7, 1, 3, [7]),  # means something only with several
        (7, 2, -1, [4, 3]),
        (56, 4, -1, [14, 14, 14, 14]),
        (56, 4, 14, [14, 14, 14, 14]),
        (11, 4, -1, [3, 3, 3, 2]),
        (11, 4, 1, [1, 4, 3, 3]),
        (4, 3, 2, [2, 1, 1]),
        (3, 3, -1, [1, 1, 1]),
    ],
)
def test_shares_are_consecutive_and_even(n_rows, n_parts, first, sizes):
    parts = shares(n_rows, n_parts, first)
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == list(range(n_rows))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 4), ["--batch_size 3", "4 processes without a sequence"]),
        ((16, 4, 14), ["--gpu0_bsz 14", "--batch_size 16", "4 processes"]),
        ((16, 2, 16), ["--gpu0_bsz 16", "--batch_size 16"]),
        ((16, 2, 99), ["--gpu0_bsz 99"]),
        ((16, 2, 0), ["--gpu0_bsz 0"]),
    ],
)
def test_shares_leave_no_process_without_a_row(arguments, words):
    with pytest.raises(UserError) as caught:
        shares(*arguments)
    assert all(word in str(caught.value) for word in words)


PLACE = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": HOST, "MASTER_PORT": "29500"}


@pytest.mark.parametrize("size", [None, "1"])
def test_a_world_of_one_needs_nothing_else(monkeypatch, size):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    assert World.join(cuda=False).size == 1
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"MASTER_ADDR": ""}, ["MASTER_ADDR is not set", "torchrun"]),
        ({"RANK": "", "MASTER_PORT": ""}, ["RANK, MASTER_PORT is not set"]),
        ({"RANK": "2"}, ["RANK '2'", "WORLD_SIZE '2'", "torchrun"]),
        ({"RANK": "0"}, ["RANK '0'", "LOCAL_RANK '1'"]),
        ({"RANK": "-1"}, ["RANK '-1'"]),
        ({"WORLD_SIZE": "two"}, ["WORLD_SIZE is 'two'"]),
        ({"MASTER_PORT": "http"}, ["MASTER_PORT 'http'"]),
        ({"MASTER_PORT": "99999"}, ["process 1 of 2", "127.0.0.1:99999", "65535"]),
        ({"MASTER_PORT": "1"}, ["process 1 of 2", "127.0.0.1:1 ", "timed out", "MASTER_ADDR and MASTER_PORT"]),
    ],
)
def test_an_environment_that_makes_no_world_is_refused(monkeypatch, changes, words):
    monkeypatch.setattr(distributed, "REACH", timedelta(seconds=0.2))
    for name, value in {**PLACE, **changes}.items():
        monkeypatch.setenv(name, value)
    check_refusal(words)


def check_refusal(words: list[str], *, cuda: bool = False) -> None:
    with pytest.raises(UserError) as caught:
        World.join(cuda=cuda)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not dist.is_initialized()


def test_processes_that_do_not_come_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(distributed, "REACH", timedelta(seconds=0.2))
    for name, value in variables(meeting_place(), 0, 2).items():
        monkeypatch.setenv(name, value)
    check_refusal(["process 0 of 2 did not meet the others", "all processes were started"])


@pytest.mark.parametrize(("local_rank", "n_local"), [("2", "3"), ("0", "3"), ("2", None)])
def test_more_processes_than_gpus_are_refused(monkeypatch, local_rank, n_local):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    here = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": local_rank}
    for name, value in {**PLACE, **here, **({"LOCAL_WORLD_SIZE": n_local} if n_local else {})}.items():
        monkeypatch.setenv(name, value)
    check_refusal(["3 processes on this machine", "2 GPUs", "--nproc-per-node 2"], cuda=True)


def survive(world: World) -> list[bool]:
    """One process dies; whether the others' errors, in all that they attempt, tell so."""
    layer = nn.Linear(2, 1)
    parallel = DistributedDataParallel(layer)
    for _ in range(2):  # the buckets are built anew after the first
        parallel(torch.ones(1, 2)).sum().backward()
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    loss = parallel(torch.ones(1, 2)).sum()
    attempts = [
        lambda: world.sum(np.ones(1)),
        lambda: world.sum(np.ones(1)),
        lambda: world.gather("here"),
        lambda: world.part(2),
        lambda: loss.backward(),
    ]
    return [_loses_contact(attempt) for attempt in attempts]


def _loses_contact(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except Exception as error:
        return lost_contact(error)
    return False


def test_survivors_notice_at_once_that_a_process_has_died(tmp_path):
    assert in_world(3, survive, tmp_path, lost=1) == [[True] * 5] * 2


def test_other_errors_are_no_loss_of_contact():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ConnectionResetError("Connection reset")):
        assert not lost_contact(error)
    timeouts = ("Timed out waiting 4000ms for recv operation to complete", "Application timeout caused pair closure")
    assert all(lost_contact(RuntimeError(message)) for message in timeouts)


def validate(world: World) -> list[EvaluationReport]:
    """The reports of a model whose solves stop early, at places that differ between the rows."""
    model = GoldenModel("wnorm").build()
    ids = np.random.RandomState(0).randint(0, model.config.n_token, EVAL_ROWS * 24).astype(np.int32)
    batches = OrderedBatches(ids, EVAL_ROWS, 5)
    reports = []
    for changes in SOLVERS:
        settings = Settings(eval_tgt_len=5, spectral_radius=True, **changes)
        reports.append(evaluate(model, batches, "valid", settings, equilibrium(settings), world=world))
    reports.append(evaluate(model, batches, "valid", Settings(eval_tgt_len=5), Applications(3), world=world))
    assert model.training
    return reports


@pytest.mark.slow
def test_an_evaluation_is_the_same_in_any_number_of_processes(tmp_path):
    alone = validate(World())
    batch, sequence = alone[0], alone[1]
    assert batch.solve.steps != sequence.solve.steps  # the rows differ, and so it matters who stops with whom
    assert 0 < batch.solve.unconverged < 1
    for size in (2, 3, EVAL_ROWS + 1):
        first, *others = in_world(size, validate, tmp_path)
        assert others == [first] * (size - 1)
        for report, expected in zip(first, alone, strict=True):
            check_same(report, expected)


def check_same(report: EvaluationReport, expected: EvaluationReport) -> None:
    assert report.loss == pytest.approx(expected.loss, rel=1e-12)
    assert report.radius == expected.radius or report.radius.mean == pytest.approx(expected.radius.mean, rel=1e-9)
    assert (report.solve is None) == (expected.solve is None)
    if report.solve is not None:
        assert report.solve.residual == pytest.approx(expected.solve.residual, rel=1e-9)
        assert replace(report.solve, residual=0) == replace(expected.solve, residual=0)
    for name in set(vars(report)) - {"loss", "solve", "radius", "seconds"}:
        assert getattr(report, name) == getattr(expected, name), name
