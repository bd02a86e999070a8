"""State dicts and other tensors on disk: read without ever running a pickle, written whole, put into models."""

import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from models.transformers.older_generation import current_generation
from system.atomic_file import write_atomically
from system.errors import UserError
from system.pickle_names import foreign_name

REMEDY = "pass a file made by torch.save(model.state_dict(), FILE)"
N_NAMES_SHOWN, LONGEST_NAME = 4, 100
REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a pickle that needs more than tensors
ZIP_FORMAT = b"PK\x03\x04"  # how PyTorch knows it
FOLDER = 0x10  # among the attributes of a record
BLOCK = 1 << 22  # bytes


def load_state_dict(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a state dict of either generation and torch format, with the current generation's names and shapes.

    No pickle is ever run: a file that holds more than tensors is refused.

    Args:
        path: file written by `torch.save`.
        map_location: device of the tensors, whatever device they were saved from.

    Raises:
        UserError: naming the file, when it cannot be read, is damaged as far as `check_archive` can tell, or is no
            state dict.
    """
    state = read_tensors(path, map_location)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict: {REMEDY}")
    if not state:
        raise UserError(f"{path} holds an empty state dict: {REMEDY}")
    others = [_shown(name) for name, value in state.items() if not (isinstance(name, str) and _is_dense(value))]
    if others:
        raise UserError(f"{path} has entries that are not dense tensors ({_some(others)}): {REMEDY}")
    return current_generation(state)


def read_tensors(
    path: str | os.PathLike, map_location: str | torch.device = "cpu", *, mmap: bool = False, remedy: str = REMEDY
) -> Any:
    """Read tensors, and Python's plain values and containers of them, as `torch.save` wrote them.

    Args:
        path: file of either torch format.
        map_location: device of the tensors.
        mmap: leave the tensors' values in the file, which must have the zip format, until they are used.
        remedy: the end of the messages.

    Raises:
        UserError: naming the file, when it cannot be read, is damaged, or holds anything else, which is not run.
    """
    check_archive(path, remedy=remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that then load, or fail below
            return _plain(torch.load(path, map_location=map_location, weights_only=True, mmap=mmap), {})
    except Exception as error:  # a damaged file raises nearly any type
        refused = REFUSED_NAME.search(str(error))
        name = refused[1] if refused else foreign_name(path)
        if name:
            what = f"more than tensors ({_shown(name)})"
            raise UserError(f"{path} pickles {what} and was not run, as it could hold any code: {remedy}") from error
        raise _damaged(path, remedy) from error


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Python's own containers, and tensors without attributes: a pickle may hide methods behind values of its own."""
    if id(value) not in known:
        if isinstance(value, Tensor):
            known[id(value)] = Tensor.detach(value)
        elif isinstance(value, dict):
            known[id(value)] = {key: _plain(entry, known) for key, entry in dict.items(value)}
        elif isinstance(value, list | tuple):
            kind = list if isinstance(value, list) else tuple
            known[id(value)] = kind(_plain(entry, known) for entry in value)
        else:
            return value
    return known[id(value)]


def check_archive(path: str | os.PathLike, *, remedy: str = REMEDY) -> None:
    """Compare the records of a file with their CRC32, which PyTorch writes but does not look at when it reads.

    Only the zip format has them, unless `torch.serialization.set_crc32_options` turned them off. Other files pass:
    in one of the legacy format, bits of a weight may have flipped unnoticed.

    Raises:
        UserError: naming the file, when it cannot be read or a record is not what was written.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only this line's OSError is about access
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {remedy}") from error
    with file:
        try:
            sound = file.read(len(ZIP_FORMAT)) != ZIP_FORMAT or _is_sound(file)
        except Exception as error:  # a damaged file raises nearly any type
            raise _damaged(path, remedy) from error
    if not sound:
        raise _damaged(path, remedy)


def _is_sound(file: BinaryIO) -> bool:
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED or record.external_attr & FOLDER for record in records):
            return False  # PyTorch writes neither; in place of a folder's content it would read what is in memory
        if any(record.CRC for record in records):
            for record in records:
                with archive.open(record) as content:
                    n_bytes = 0
                    while block := content.read(BLOCK):  # raises where the checksum is wrong
                        n_bytes += len(block)
                if n_bytes != record.file_size:
                    return False
    return True


def _damaged(path: str | os.PathLike, remedy: str) -> UserError:
    return UserError(
        f"{path} is cut short, damaged or no file of tensors: if it was copied, copy it again, else {remedy}"
    )


def archive_signature(path: str | os.PathLike) -> str | None:
    """A short identity of a zip-format file, from its list of records and checksums; None where that is unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = [(record.filename, record.file_size, record.CRC) for record in archive.infolist()]
    except Exception:  # a damaged file raises nearly any type
        return None
    return hashlib.sha256(repr(records).encode()).hexdigest()[:16]


def _is_dense(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_nested or value.is_quantized)


def _shown(name: object) -> str:
    """A name from a file in one line of a message."""
    if not isinstance(name, str):
        return f"a key of type {type(name).__name__}"
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:N_NAMES_SHOWN])
    return shown if len(names) <= N_NAMES_SHOWN else f"{shown} and {len(names) - N_NAMES_SHOWN} more"


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
        "has unknown": [_shown(name) for name in state if name not in wanted],
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


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write a state dict, tensors only and on the CPU, so that `path` is whole or as it was before.

    Tied weights are stored once, under each of their names.

    Args:
        state: of a model on any device.
        path: the file to write, in a folder that exists.

    Raises:
        OSError: when it cannot be written (full disk, no permission); what was there before stays.
    """
    write_atomically(path, partial(torch.save, portable(state)))


def portable(value: Any) -> Any:
    """Nested dicts, lists and tuples as files should hold them: plain, their tensors on the CPU.

    Tensors become contiguous and own all of their storage; those that are and do already are not copied. What is one
    tensor in several places stays one.
    """
    copies: dict[tuple, Tensor] = {}

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            place = _place(value)
            if place not in copies:
                copies[place] = _owner(value.detach().cpu().contiguous())
            return copies[place]
        if isinstance(value, Mapping):
            return {key: moved(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return (list if isinstance(value, list) else tuple)(map(moved, value))
        return value

    return moved(value)


def _owner(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
