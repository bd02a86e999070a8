"""Several processes of a program on this machine, without `torchrun`."""

import math
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import NoReturn

import torch
import torch.distributed as dist
import torch.multiprocessing
from tqdm import tqdm

from system.progress import show_any_text

HOST = "127.0.0.1"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
STOPPED = tuple(128 + number for number in FORWARDED[:3])  # statuses of a program that a signal has ended in good order
LOOK = 0.5  # seconds between looks at the processes
GRACE = 10  # seconds for the others once one has failed
LAST_SAVE = 600  # seconds for the others once one has stopped in good order: the first may still write a large file

Main = Callable[[Sequence[str]], int]


def launch(main: Main, argv: Sequence[str], n: int) -> int:
    """Run `main(argv)` in n processes, under the environment variables that torchrun would set.

    Signals are passed on. When a process fails, the others are ended; when this one is killed, all are.

    Args:
        main: a function that can be imported, from the script that is run too; it gives the exit status.
        argv: its argument.
        n: number of processes.

    Returns:
        The exit status: that of the first process that failed, 128 + its number for a signal; 0 where none did.
    """
    server = socket.create_server((HOST, 0))  # on a port that is free, and stays theirs
    port = server.getsockname()[1]
    store = dist.TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach())
    environment = {
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, not in the first process
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
    }
    with _noted_signals() as noted:
        processes = _start(main, argv, n, environment)
        try:
            return _watch(processes, noted)
        finally:
            for process in processes:
                process.kill()


@contextmanager
def _noted_signals() -> Iterator[deque[int]]:
    """The signals that came, to be passed on; those that were ignored before stay ignored."""
    noted: deque[int] = deque()
    before = {number: signal.getsignal(number) for number in FORWARDED}
    for number in FORWARDED:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(main: Main, argv: Sequence[str], n: int, environment: dict[str, str]) -> list[BaseProcess]:
    # The processes begin with the signals blocked, or those that come during their imports would end them untidily.
    resource_tracker.ensure_running()  # which would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        arguments = (main, list(argv), environment)
        return torch.multiprocessing.start_processes(_run, arguments, n, join=False, start_method="spawn").processes
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(rank: int, main: Main, argv: Sequence[str], environment: dict[str, str]) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(torch.get_num_threads() // int(environment["WORLD_SIZE"]), 1))
    show_any_text()
    os.setsid()  # a terminal's Ctrl-C comes from the launcher alone: a second one means at once
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGTERM)  # not SIGINT, which is ignored in the background
    signal.signal(signal.SIGUSR1, lambda number, frame: None)  # asks for a checkpoint: outside training there is none
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is killed would leave behind
    leave_with(main, argv)


def leave_with(main: Main, argv: Sequence[str]) -> NoReturn:
    """Run `main(argv)` in a process of several, and end that with its status, at once.

    An interpreter that winds down may wait for another process, which is no more, or be aborted by gloo's threads.
    """
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)  # see `_start`
        status = main(argv)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception:
        traceback.print_exc()  # here and now, before the others notice
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed, or read by nobody
            stream.flush()
    os._exit(status)


def _watch(processes: Sequence[BaseProcess], noted: deque[int]) -> int:
    """Wait for all processes, and pass on the signals that are noted; the exit status."""
    running, asked = dict(enumerate(processes)), []
    status, failed, deadline = 0, False, math.inf
    while running:
        connection.wait([process.sentinel for process in running.values()], LOOK)
        for rank, process in list(running.items()):
            if process.exitcode is None:
                continue
            del running[rank]
            if process.exitcode != 0 and not failed:
                failed = process.exitcode not in STOPPED
                status = status or _status(rank, process.exitcode, asked)
                deadline = time.monotonic() + (GRACE if failed else LAST_SAVE)
        numbers = [noted.popleft() for _ in range(len(noted))]
        asked.extend(numbers)
        if failed:
            numbers.append(signal.SIGTERM)  # again at each look: the first one may only have been noted
        if time.monotonic() > deadline or asked.count(signal.SIGINT) > 2:  # Ctrl-C, at once, and once more
            numbers.append(signal.SIGKILL)
        for process in running.values():
            for number in numbers:
                os.kill(process.pid, number)
    return status


def _status(rank: int, exitcode: int, asked: Sequence[int]) -> int:
    """A shell's status for a process's exit code; a signal that was not passed on from here is told of."""
    if exitcode >= 0:
        return exitcode
    if -exitcode not in asked:
        print(f"process {rank} was killed by {signal.Signals(-exitcode).name}", file=sys.stderr, flush=True)
    return 128 - exitcode
