"""Several processes of a script on this machine, without `torchrun`."""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection

import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException
from tqdm import tqdm

HOST = "127.0.0.1"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit statuses of all processes that were told to stop
PATIENCE, HASTE = 30, 2  # seconds for the others to end: after a stop, and after one has failed

Main = Callable[[Sequence[str]], int]


def launch(main: Main, argv: Sequence[str], n: int) -> int:
    """Run `main(argv)` in n processes that find each other as torchrun's do.

    When one fails the others are ended. Signals are passed on.

    Args:
        main: a function of a module, which gives the exit status.
        argv: its argument.
        n: number of processes.

    Returns:
        The exit status: of the first process that failed, or 0.
    """
    store = dist.TCPStore(HOST, 0, None, is_master=True, wait_for_workers=False)  # on a port that is free
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    shared = {
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, not in the first process
        "OMP_NUM_THREADS": threads,
    }
    context = multiprocessing.start_processes(_run, (main, list(argv), shared), n, join=False, start_method="spawn")
    with _forwarding(context):
        return _wait(context)


def _run(rank: int, main: Main, argv: Sequence[str], environment: dict[str, str]) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed would leave behind
    os.setpgid(0, 0)  # a terminal's Ctrl-C comes through the launcher alone: twice would mean at once
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    try:
        status = main(argv)
    except Exception:
        traceback.print_exc()  # here and now, before the others notice
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # gloo's threads may abort an interpreter that winds down


def _end_with_the_launcher() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _wait(context: ProcessContext) -> int:
    """Until all processes have ended; the exit status."""
    sentinels = {process.sentinel: process for process in context.processes}
    while all(process.exitcode in (None, 0) for process in context.processes):
        if not sentinels:
            return 0
        for sentinel in connection.wait(list(sentinels)):
            sentinels.pop(sentinel).join()
    failed, status = next((i, p.exitcode) for i, p in enumerate(context.processes) if p.exitcode not in (None, 0))
    if status < 0:
        print(f"process {failed} was killed by {signal.Signals(-status).name}", file=sys.stderr, flush=True)
    logging.getLogger(ProcessContext.__module__).setLevel(logging.ERROR)  # that it ends the others is no news
    with suppress(ProcessExitedException):
        context.join(grace_period=PATIENCE if status in STOPPED else HASTE)
    return status if status > 0 else 128 - status


@contextmanager
def _forwarding(context: ProcessContext) -> Iterator[None]:
    """Passes signals on to the processes."""

    def forward(number: int, frame: object) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
