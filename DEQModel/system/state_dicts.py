"""State dicts: read from files, written to them, put into models."""

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from system.errors import UserError
from system.pickle_names import shown
from system.tensor_files import REMEDY, place_of, read_tensors, write_tensors

N_NAMES_SHOWN = 4


def load_state_dict(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a state dict, in either torch format, as it is.

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
    others = [shown(name) for name, value in state.items() if not (isinstance(name, str) and _is_dense(value))]
    if others:
        raise UserError(f"{path} has entries that are not dense tensors ({_some(others)}): {REMEDY}")
    return state


def _is_dense(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_nested or value.is_quantized)


def _some(names: Sequence[str]) -> str:
    first = ", ".join(names[:N_NAMES_SHOWN])
    return first if len(names) <= N_NAMES_SHOWN else f"{first} and {len(names) - N_NAMES_SHOWN} more"


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
        "has unknown": [shown(name) for name in state if name not in wanted],
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
        other = first_name.setdefault(place_of(value), name)
        if other != name and not _equal(state[name], state[other]):
            raise UserError(f"{path} has different values for {other} and {name}, tied by the flags: pass `not_tied`")
    model.load_state_dict(state)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return place_of(a) == place_of(b) or bool(torch.isclose(a, b, rtol=0.0, atol=0.0, equal_nan=True).all())


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write a state dict, tensors only and on the CPU, so that `path` is whole or as it was before.

    Tied weights are stored once, under each of their names.

    Args:
        state: of a model on any device.
        path: the file to write, in a folder that exists.

    Raises:
        OSError: when it cannot be written (full disk, no permission); what was there before stays.
    """
    write_tensors(state, path)
