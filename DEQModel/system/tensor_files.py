"""Files of tensors: read without ever running a pickle, compared with their checksums, written whole."""

import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

import torch
from torch import Tensor

from system.atomic_file import write_atomically
from system.errors import UserError
from system.out_of_memory import is_out_of_memory
from system.pickle_names import foreign_name, shown

REMEDY = "pass a file made by torch.save(model.state_dict(), FILE)"
REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a pickle that needs more than tensors
ZIP_FORMAT = b"PK\x03\x04"  # how PyTorch knows it
DESCRIPTION = "/data.pkl"  # the record that says what the tensors are; theirs are beside it
FOLDER = 0x10  # among the attributes of a record
BLOCK = 1 << 22  # bytes


def read_tensors(
    path: str | os.PathLike,
    map_location: str | torch.device = "cpu",
    *,
    lazily: bool = False,
    checked: bool = False,
    remedy: str = REMEDY,
) -> Any:
    """Read tensors, and Python's plain values and containers of them, as `torch.save` wrote them.

    Args:
        path: file of either torch format.
        map_location: device of the tensors.
        lazily: leave the tensors' values in the file, which must have the zip format, until they are used; they are
            then not compared with their checksums.
        checked: the checksums have just been compared.
        remedy: the end of the messages.

    Raises:
        UserError: naming the file, when it cannot be read, is damaged, or holds anything else, which is not run.
    """
    if not checked:
        check_archive(path, values=not lazily, remedy=remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that then load, or fail below
            return _plain(torch.load(path, map_location=map_location, weights_only=True, mmap=lazily), {})
    except Exception as error:  # a damaged file raises nearly any type
        if is_out_of_memory(error):
            raise
        refused = REFUSED_NAME.search(str(error))
        name = refused[1] if refused else foreign_name(path)
        if name:
            what = f"more than tensors ({shown(name)})"
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


def check_archive(path: str | os.PathLike, *, values: bool = True, remedy: str = REMEDY) -> None:
    """Compare the records of a file with their CRC32, which PyTorch writes but does not look at when it reads.

    Only the zip format has them, unless `torch.serialization.set_crc32_options` turned them off. Other files pass:
    in one of the legacy format, bits of a weight may have flipped unnoticed.

    Args:
        path: the file.
        values: compare the tensors' values too, and not their description alone.
        remedy: the end of the messages.

    Raises:
        UserError: naming the file, when it cannot be read or a record is not what was written.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only this line's OSError is about access
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {remedy}") from error
    with file:
        try:
            sound = file.read(len(ZIP_FORMAT)) != ZIP_FORMAT or _is_sound(file, values)
        except Exception as error:  # a damaged file raises nearly any type
            raise _damaged(path, remedy) from error
    if not sound:
        raise _damaged(path, remedy)


def _is_sound(file: BinaryIO, values: bool) -> bool:
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED or record.external_attr & FOLDER for record in records):
            return False  # PyTorch writes neither; in place of a folder's content it would read what is in memory
        if any(record.CRC for record in records):
            for record in records:
                if not values and not record.filename.endswith(DESCRIPTION):
                    continue
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


def portable(value: Any) -> Any:
    """Nested dicts, lists and tuples as files should hold them: plain, their tensors on the CPU.

    Tensors become contiguous and own all of their storage; those that are and do already are not copied. What is one
    tensor in several places stays one.
    """
    copies: dict[tuple, Tensor] = {}

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            place = place_of(value)
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


def place_of(tensor: Tensor) -> tuple:
    """Equal for two tensors that are one and the same memory."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def write_tensors(value: Any, path: str | os.PathLike) -> None:
    """Write tensors, and plain values and containers of them, so that `path` is whole or as it was before.

    Raises:
        OSError: it cannot be written (full disk, no permission); what was there before stays.
    """
    write_atomically(path, partial(torch.save, portable(value)))
