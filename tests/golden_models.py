"""The language models whose arrays others' code computed, with their settings and weights: the files in `golden`."""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from models.transformers.weights import DEQTransformerWeights
from system.state_dicts import load_state_dict

FOLDER = Path(__file__).parent / "golden"
OLDER_LAYOUT = "_2020_layout"
NAMES = tuple(sorted(path.stem.removeprefix("model_") for path in FOLDER.glob("model_*.npz")))
IN_OLDER_LAYOUT = tuple(name for name in NAMES if (FOLDER / f"model_{name}{OLDER_LAYOUT}.pkl").exists())
ARCHITECTURE = (  # settings of the original that are the configuration's under the same names
    *("n_token", "n_head", "d_head", "d_model", "d_inner", "d_embed", "div_val", "wnorm", "pre_lnorm"),
    *("mem_len", "local_size", "dropout", "dropatt"),
)


class GoldenFiles:
    """Settings, arrays and weights of a model: `golden/<name>.json`, `.npz` and `.pkl`."""

    def __init__(self, name: str):
        self.path = FOLDER / name

    @cached_property
    def settings(self):
        """By the names that they have there."""
        return json.loads(self.path.with_suffix(".json").read_text())

    @cached_property
    def arrays(self):
        """By name."""
        return np.load(self.path.with_suffix(".npz"))

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The weights under the names that they have there."""
        return load_state_dict(self.path.with_suffix(".pkl"))

    def segments_of(self, length: int) -> list[tuple[Tensor, Tensor]]:
        """(tokens, targets), (L, B) each, of the consecutive segments of this length."""
        return cut(torch.from_numpy(self.arrays["tokens"]), length)

    def gradients(self, before: str = "") -> tuple[int, dict[str, Tensor]]:
        """The segment whose loss has gradients, and these by the names that they have there.

        Args:
            before: what their arrays' names begin with, before that of the segment.
        """
        pattern = re.compile(rf"{before}seg(\d+)_grad_(.*)")
        matches = [match for name in self.arrays.files if (match := pattern.fullmatch(name))]
        (segment,) = {int(match[1]) for match in matches}
        return segment, {match[2]: torch.from_numpy(self.arrays[match[0]]) for match in matches}


def cut(tokens: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """(tokens, targets), (L, B) each, of the consecutive segments of a text (N, B)."""
    starts = range(0, len(tokens) - 1, length)
    return [(tokens[start : start + length], tokens[start + 1 : start + 1 + length]) for start in starts]


def of_parameters(model: nn.Module, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient that each of a model's parameters should have; 0 where nothing there depended on it.

    What is one parameter here under several names may be several parameters there, over one storage: the gradient is
    then the sum of theirs.
    """
    left = dict(gradients)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    expected = {}
    for name, parameter in model.named_parameters():
        present = [left.pop(alias) for alias in names[id(parameter)] if alias in left]
        expected[name] = sum(present, start=torch.zeros_like(parameter))
    assert not left, f"gradients of parameters that the model does not have: {left.keys()}"
    return expected


def in_a_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as that of a model within `DataParallel`."""
    return {f"module.{name}": value for name, value in state.items()}


class GoldenModel:
    """Settings, arrays and weights of one of the original's `golden/model_*`; `build` makes it in float64."""

    def __init__(self, name: str, *, older_layout: bool = False):
        self.settings = json.loads((FOLDER / f"model_{name}.json").read_text())
        self.arrays = np.load(FOLDER / f"model_{name}.npz")
        self.weights = FOLDER / f"model_{name}{OLDER_LAYOUT if older_layout else ''}.pkl"
        self.tgt_len = self.settings["tgt_len"]
        self.n_layer = self.settings["n_layer"]

    def build(self) -> DEQTransformerLM:
        """The model with the file's weights."""
        shapes = {name: self.settings[name] for name in ARCHITECTURE if name in self.settings}
        config = DEQTransformerConfig(
            cutoffs=tuple(self.settings["cutoffs"]), tied=self.settings["tie_weights"], **shapes
        )
        model = DEQTransformerLM(config).double()
        model.load_state_dict(DEQTransformerWeights().modern(load_state_dict(self.weights)))
        return model

    def tensor(self, name: str) -> torch.Tensor:
        """One array."""
        return torch.from_numpy(self.arrays[name])

    def numbered(self, pattern: str) -> list[float]:
        """The scalars `pattern` with `{}` = 0, 1, … as far as there are such arrays."""
        values = []
        while (name := pattern.format(len(values))) in self.arrays.files:
            values.append(float(self.arrays[name]))
        return values

    def segments(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(tokens, targets), (L, B) each, of the consecutive segments."""
        return cut(self.tensor("tokens"), self.tgt_len)

    def gradients(self, prefix: str, model: DEQTransformerLM) -> dict[str, np.ndarray]:
        """The gradient that each of the model's parameters should have, of the arrays whose names begin so."""
        found = {name.removeprefix(prefix): self.tensor(name) for name in self.arrays.files if name.startswith(prefix)}
        return {name: value.detach().numpy() for name, value in of_parameters(model, found).items()}
