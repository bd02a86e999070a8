"""What a run leaves behind, and whether two runs left the same to the bit."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runs.experiment import LOG_FILE, RESULTS_FILE, WEIGHTS_FILE
from training.checkpoint import CHECKPOINT_FILE

OF_THE_CLOCK = re.compile(r"[\d,.]+ (ms/step|tokens/s|s, )| in +s|\d+ updates in .*")
OF_THE_CALL = ("resumed at", "changed: ", "warning: ", "note: ", "run folder: ", "curves: ", "peak memory")
# Times, the length of their digits, and where the run is.
NOT_COMPARED = {"seconds", "tokens_per_second", "log_end", "peak_memory_bytes"} | {
    *("restart", "restart_dir", "name", "data", "work_dir"),
}


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
        lines = (folder / LOG_FILE).read_text(errors="replace").splitlines()
        log = [OF_THE_CLOCK.sub("", line) for line in lines if not line.startswith(OF_THE_CALL)]
        return cls(weights, checkpoint, json.loads((folder / RESULTS_FILE).read_text()), log)


def differences(one: object, other: object, where: str = "") -> Iterator[str]:
    """Where two values made of plain ones and tensors are not the same to the bit."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__}, {type(other).__name__}"
    elif isinstance(one, dict):
        if one.keys() != other.keys():
            yield f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"
        for key in one.keys() & other.keys() - NOT_COMPARED:
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
