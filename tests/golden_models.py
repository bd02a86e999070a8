"""The language models whose arrays the original computed: every `golden/model_*.npz` with its settings and weights."""

import json
from pathlib import Path

import numpy as np
import torch

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


class GoldenModel:
    """Settings, arrays and weights of one model; `build` makes it in float64."""

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
        tokens = self.tensor("tokens")
        starts = range(0, len(tokens) - 1, self.tgt_len)
        return [
            (tokens[start : start + self.tgt_len], tokens[start + 1 : start + 1 + self.tgt_len]) for start in starts
        ]

    def gradients(self, prefix: str, model: DEQTransformerLM) -> dict[str, np.ndarray]:
        """The gradient that each of the model's parameters should have; 0 where nothing there depended on it.

        What is one parameter here under several names may be several parameters there, over one storage: the gradient
        is then the sum of theirs.
        """
        left = {name.removeprefix(prefix) for name in self.arrays.files if name.startswith(prefix)}
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        expected = {}
        for name, parameter in model.named_parameters():
            present = left.intersection(names[id(parameter)])
            left -= present
            zero = np.zeros(parameter.shape)
            expected[name] = sum((self.arrays[prefix + alias] for alias in present), start=zero)
        assert not left, f"gradients of parameters that the model does not have: {left}"
        return expected
