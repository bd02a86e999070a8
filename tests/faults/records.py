"""What a run leaves behind, and whether two runs left the same to the bit."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from logs import is_measured, without_times

from runs.experiment import LOG_FILE, RESULTS_FILE, WEIGHTS_FILE
from training.checkpoint import CHECKPOINT_FILE

# The length of the digits of times, and where the run is.
NOT_COMPARED = {"log_end", "peak_memory_bytes", "restart", "restart_dir", "name", "data", "work_dir"}


@dataclass(frozen=True)
class Record:
    """A finished run: its best model, its last checkpoint, its results, and its log without times."""

    weights: dict[str, Any]
    checkpoint: dict[str, Any]
    results: dict[str, Any]
    log: list[str]

    @classmethod
    def of(cls, folder: Path) -> "Record":
        """Of the run in this folder."""
        weights, checkpoint = (torch.load(folder / n, weights_only=True) for n in (WEIGHTS_FILE, CHECKPOINT_FILE))
        log = without_times((folder / LOG_FILE).read_text(errors="replace"))
        return cls(weights, checkpoint, json.loads((folder / RESULTS_FILE).read_text()), log)


def differences(one: object, other: object, where: str = "") -> Iterator[str]:
    """Where two values made of plain ones and tensors are not the same to the bit."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__}, {type(other).__name__}"
    elif isinstance(one, dict):
        if one.keys() != other.keys():
            yield f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"
        for key in one.keys() & other.keys() - NOT_COMPARED:
            if not is_measured(key):
                yield from differences(one[key], other[key], f"{where} {key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} entries, {len(other)}"
        for i, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, f"{where} {i}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or _bits(one) != _bits(other):
            yield f"{where}: tensors"
    elif one != other:
        yield f"{where}: {one!r}, {other!r}"


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
