"""What a run was made with and where, beside its settings."""

import os
import platform
import shlex
import socket
import sys
import time
from typing import Any

import torch

from system.version import VERSION, commit


def environment(device: torch.device, n_processes: int) -> dict[str, Any]:
    """Versions, place and time of a run, as plain values.

    Args:
        device: of the first process.
        n_processes: that work together.
    """
    on_gpu = device.type == "cuda"
    return {
        "program": VERSION,
        "commit": commit(),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "host": socket.gethostname(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{os.cpu_count()} CPU cores",
        "processes": n_processes,
    }
