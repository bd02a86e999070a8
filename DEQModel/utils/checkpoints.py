"""State dicts on disk: reading both generations of published files safely, matching them to flags, writing."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from utils.adaptive_embedding import has_projections, table_shapes
from utils.errors import UserError

REMEDY = "pass a file made by torch.save(model.state_dict(), FILE)"
N_NAMES_SHOWN = 4
REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a pickle that needs more than tensors

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
        if refused:
            raise UserError(
                f"{path} pickles more than tensors ({refused[1]}) and was not run, as it could hold any code: {REMEDY}"
            ) from error
        raise UserError(f"{path} is cut short, damaged or no file of tensors: copy it again, or {REMEDY}") from error


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


@dataclass(frozen=True)
class CheckpointSettings:
    """What the shapes in a DEQ-Transformer's state dict say about the flags it was trained with.

    A cutoff is None where only the number of cutoffs shows (div_val 1: one table holds all bins). Where several
    div_val give the same shapes it is the smallest.
    """

    n_token: int
    d_model: int
    n_head: int
    d_head: int
    d_inner: int
    d_embed: int
    wnorm: bool
    cutoffs: tuple[int | None, ...]
    div_val: int

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> "CheckpointSettings":
        """Read the settings off `state`.

        Raises:
            UserError: when an entry is missing or has a shape that no DEQ-Transformer gives it.
        """
        d_model = _shape(state, "inject_conv.weight", 3)[1]
        n_head, d_head = _shape(state, "func.dec_attn.r_w_bias", 2)
        tables = [_shape(state, "word_emb.emb_layers.0.weight", 2)]
        while (name := f"word_emb.emb_layers.{len(tables)}.weight") in state:
            tables.append(_shape(state, name, 2))
        d_embed = tables[0][1]
        cutoffs: tuple[int | None, ...] = tuple(accumulate(size for size, _ in tables[:-1]))
        if len(tables) == 1 and "crit.cluster_weight" in state:
            cutoffs = (None,) * _shape(state, "crit.cluster_weight", 2)[0]
        return cls(
            n_token=sum(size for size, _ in tables),
            d_model=d_model,
            n_head=n_head,
            d_head=d_head,
            d_inner=_shape(state, "func.pos_ff.ff1_net.bias", 1)[0],
            d_embed=d_embed,
            wnorm="func.dec_attn.qkv_net.weight_g" in state,
            cutoffs=cutoffs,
            div_val=_div_val([width for _, width in tables], d_model, "word_emb.emb_projs.0.weight" in state),
        )


def _shape(state: dict[str, Tensor], name: str, n_dims: int) -> tuple[int, ...]:
    if name not in state:
        raise UserError(f"no entry {name}: pass the state dict of a DEQ-Transformer")
    shape = tuple(state[name].shape)
    if len(shape) != n_dims:
        raise UserError(f"{name} has shape {shape}, not {n_dims} dimensions: pass the state dict of a DEQ-Transformer")
    return shape


def _div_val(widths: list[int], d_model: int, projected: bool) -> int:
    if len(widths) == 1:
        return 2 if projected and widths[0] == d_model else 1
    for div_val in range(2, widths[0] + 1):
        if all(widths[0] // div_val**i == width for i, width in enumerate(widths)):
            return div_val
    raise UserError(f"its embeddings' widths {widths} follow no --div_val: pass the state dict of a DEQ-Transformer")


def check_settings(path: str | os.PathLike, state: dict[str, Tensor], expected: CheckpointSettings) -> None:
    """Compare the settings that `state` shows with those of the flags.

    Args:
        path: the file `state` was read from, for the message.
        state: a state dict as `load_state_dict` returns it.
        expected: the settings of the flags and of the data's vocabulary.

    Raises:
        UserError: naming the file and, in one line, every flag that differs, both values and what to pass.
    """
    try:
        found = CheckpointSettings.of(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    faults = []
    if found.n_token != expected.n_token:
        faults.append(
            f"the data's vocabulary has {expected.n_token} words but the file has {found.n_token}: "
            "check --data, --dataset and --cutoffs"
        )
    for name in ("d_model", "n_head", "d_head", "d_inner", "d_embed"):
        if getattr(found, name) != getattr(expected, name):
            value = getattr(found, name)
            faults.append(f"--{name} is {getattr(expected, name)} but the file has {value}: pass --{name} {value}")
    if found.wnorm != expected.wnorm:
        faults.append(
            "--wnorm is off but the file has weight normalisation: pass --wnorm"
            if found.wnorm
            else "--wnorm is on but the file has no weight normalisation: leave --wnorm out"
        )
    faults += _cutoff_faults(found.cutoffs, expected.cutoffs) + _div_val_faults(found, expected)
    if faults:
        raise UserError(f"{path} does not match the flags: {'; '.join(faults)}")


def _cutoff_faults(found: tuple[int | None, ...], expected: tuple[int | None, ...]) -> list[str]:
    same = len(found) == len(expected) and all(a in (None, b) for a, b in zip(found, expected, strict=True))
    if same:
        return []
    given = f"--cutoffs are {_joined(expected)}" if expected else "--adaptive is off"
    if not found:
        return [f"{given} but the file has one bin: leave --adaptive out"]
    if None in found:
        return [f"{given} but the file has {len(found)} cutoffs: pass --adaptive --cutoffs with as many numbers"]
    return [f"{given} but the file has {_joined(found)}: pass --adaptive --cutoffs {_joined(found)}"]


def _joined(numbers: Sequence[int | None]) -> str:
    return " ".join(map(str, numbers))


def _div_val_faults(found: CheckpointSettings, expected: CheckpointSettings) -> list[str]:
    # Several div_val may give the same shapes, so the shapes are what is compared.
    def shapes(div_val: int) -> tuple[list[int], bool]:
        # Bins of one word stand in for the cutoffs: those of a file may be unknown, and only widths matter here.
        cutoffs = range(1, 1 + len(found.cutoffs))
        tables = table_shapes(1 + len(cutoffs), found.d_embed, cutoffs, div_val)
        return [width for _, width in tables], has_projections(found.d_embed, found.d_model, div_val)

    if shapes(found.div_val) == shapes(expected.div_val):
        return []
    return [f"--div_val is {expected.div_val} but the file has {found.div_val}: pass --div_val {found.div_val}"]


def load_into(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Copy `state` into `model`, all of it or nothing.

    A model with tied weights takes only files whose tied entries are equal; one without takes any.

    Args:
        model: the model to fill.
        state: a state dict as `load_state_dict` returns it.
        path: the file `state` was read from, for the message.

    Raises:
        UserError: naming the file and the entries that are missing, unknown, of another shape or not tied.
    """
    wanted = model.state_dict()
    faults = {
        "lacks": [name for name in wanted if name not in state],
        "has unknown": [name for name in state if name not in wanted],
        "has other shapes for": [n for n in wanted if n in state and state[n].shape != wanted[n].shape],
    }
    found = [f"{fault} {_some(names)}" for fault, names in faults.items() if names]
    if found:
        raise UserError(f"{path} does not fit the model: it {'; it '.join(found)}: pass the flags it was trained with")
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
