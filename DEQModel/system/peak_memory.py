"""The most memory that this process has held so far."""

import resource
import sys

import torch

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in getrusage's unit


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes, by kind: `host`, resident; and `device`, allocated by PyTorch, where that is a GPU."""
    peaks = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT}
    if device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(device)
    return peaks
