"""State dicts on disk: reading both generations of published files safely, filling models with them, writing."""

import io
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from utils.errors import UserError

REMEDY = "pass a file made by torch.save(model.state_dict(), FILE)"
N_NAMES_SHOWN = 4
REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a pickle that needs more than tensors
HARMLESS = re.compile(r"torch\.(_utils\.)?\w+$|collections\.OrderedDict$")  # names in a pickle of tensors
LARGEST_PICKLE = 1 << 22  # bytes that are looked at; tensors' values are elsewhere, or behind

# What the older generation (2019, 2020) has otherwise: copies of the cell, projections as bare parameters, and the
# linear maps of the feed-forward as convolutions of kernel 1.
CELL_COPIES = ("func_copy.", "deq.", "deqback.")
BARE_PROJECTION = re.compile(r"(^|\.)(emb|out)_projs\.\d+$")
FEED_FORWARD_WEIGHT = re.compile(r"\.ff[12]_net\.weight(_[gv])?$")


def load_state_dict(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a state dict of either generation and torch format, with the current generation's names and shapes.

    No pickle is ever run: a file that holds more than tensors is refused.

    Args:
        path: file written by `torch.save`.
        map_location: device of the tensors, whatever device they were saved from.

    Raises:
        UserError: naming the file, when it cannot be read or is no state dict.
    """
    state = _read(path, map_location)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict: {REMEDY}")
    if not state:
        raise UserError(f"{path} holds an empty state dict: {REMEDY}")
    others = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_dense(value))]
    if others:
        raise UserError(f"{path} has entries that are not dense tensors ({_some(others)}): {REMEDY}")
    return _current_generation(state)


def _read(path: str | os.PathLike, map_location: str | torch.device) -> object:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only this line's OSError is about access
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {REMEDY}") from error
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that then load, or fail below
            return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged file raises nearly any type
        refused = REFUSED_NAME.search(str(error))
        name = refused[1] if refused else _foreign_name(path)
        if name:
            raise UserError(
                f"{path} pickles more than tensors ({name}) and was not run, as it could hold any code: {REMEDY}"
            ) from error
        raise UserError(f"{path} is cut short, damaged or no file of tensors: copy it again, or {REMEDY}") from error


def _foreign_name(path: str | os.PathLike) -> str | None:
    """What a pickle that PyTorch does not understand would import, tensors apart, read off without running it."""
    with suppress(Exception):  # a damaged file raises nearly any type
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    (member,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                    pickles = io.BytesIO(archive.open(member).read(LARGEST_PICKLE))
            else:
                file.seek(0)
                pickles = io.BytesIO(file.read(LARGEST_PICKLE))
        while True:  # the legacy format has several pickles; the end of the file ends the loop
            strings: list[str] = []
            for opcode, argument, _ in pickletools.genops(pickles):
                if isinstance(argument, str):
                    strings.append(argument)
                parts = (
                    strings[-2:] if opcode.name == "STACK_GLOBAL" else argument.split() if opcode.name == "INST" else []
                )
                if parts and not HARMLESS.match(name := ".".join(parts)):
                    return name
    return None


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:N_NAMES_SHOWN])
    return shown if len(names) <= N_NAMES_SHOWN else f"{shown} and {len(names) - N_NAMES_SHOWN} more"


def _current_generation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in state):  # saved from inside a data-parallel wrapper
        state = {name.removeprefix("module."): value for name, value in state.items()}
    current = {}
    for name, value in state.items():
        if name.startswith(CELL_COPIES):
            continue
        if BARE_PROJECTION.search(name):
            name += ".weight"
        if FEED_FORWARD_WEIGHT.search(name) and value.dim() == 3 and value.shape[2] == 1:
            value = value.squeeze(2)
        current[name] = value
    return current


def load_into(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Copy `state` into `model`, all of it or nothing; weights that are not finite make no model, and are refused.

    A model with tied weights takes only files whose tied entries are equal; one without takes any.

    Args:
        model: the model to fill.
        state: a state dict as `load_state_dict` returns it.
        path: the file `state` was read from, for the message.

    Raises:
        UserError: naming the file and the entries that are missing, unknown, of another shape, no floats, not finite or
            not tied.
    """
    wanted = model.state_dict()
    faults = {
        "lacks": [name for name in wanted if name not in state],
        "has unknown": [name for name in state if name not in wanted],
        "has other shapes for": [n for n in wanted if n in state and state[n].shape != wanted[n].shape],
        "has numbers of a kind that weights are not for": [
            n for n in wanted if n in state and not state[n].is_floating_point()
        ],
    }
    found = [f"{fault} {_some(names)}" for fault, names in faults.items() if names]
    if found:
        raise UserError(f"{path} does not fit the model: it {'; it '.join(found)}: pass the flags it was trained with")
    broken = [name for name, value in wanted.items() if not state[name].to(value.dtype).isfinite().all()]
    if broken:
        raise UserError(f"{path} has NaN or infinity in {_some(broken)}: pass weights from before that happened")
    first_name: dict[tuple, str] = {}
    for name, value in wanted.items():
        other = first_name.setdefault(_place(value), name)
        if other != name and not _equal(state[name], state[other]):
            raise UserError(f"{path} has different values for {other} and {name}, tied by the flags: pass --not_tied")
    model.load_state_dict(state)


def _place(tensor: Tensor) -> tuple:
    """Equal for two tensors that are one and the same memory."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return _place(a) == _place(b) or bool(torch.isclose(a, b, rtol=0.0, atol=0.0, equal_nan=True).all())


def save_state_dict(model: nn.Module, path: str | os.PathLike) -> None:
    """Write the model's state dict, tensors only and on the CPU, so that `path` is whole or as it was before.

    Tied weights are stored once, under each of their names.

    Args:
        model: the model, on any device.
        path: the file to write, in a folder that exists.

    Raises:
        OSError: when it cannot be written (full disk, no permission); what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            _write(_portable(model.state_dict()), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _portable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that own all of their storage; names of one tensor share one copy."""
    copies: dict[tuple, Tensor] = {}
    portable = {}
    for name, value in state.items():
        place = _place(value)
        if place not in copies:
            copy = value.cpu().contiguous()
            whole = copy.untyped_storage().nbytes() == copy.numel() * copy.element_size()
            copies[place] = copy if whole else copy.clone()
        portable[name] = copies[place]
    return portable


def _write(state: dict[str, Tensor], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides that the disk is full behind an error of its own
            raise error.__context__ from None
        raise
