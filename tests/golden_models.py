"""The language models whose arrays the original computed, and access to those arrays."""

import json
from pathlib import Path

import numpy as np
import torch

from models.transformers.model import DEQTransformerConfig, DEQTransformerLM
from system.checkpoints import load_state_dict

FOLDER = Path(__file__).parent / "golden"
NAMES = ("wnorm", "plain", "divval1", "nocut")


class GoldenModel:
    """Settings, arrays and weights of one model; `build` makes it in float64 with chosen solver settings."""

    def __init__(self, name: str, weights: str | None = None):
        self.settings = json.loads((FOLDER / f"model_{name}.json").read_text())
        self.arrays = np.load(FOLDER / f"model_{name}.npz")
        self.weights = FOLDER / f"{weights or f'model_{name}'}.pkl"
        self.tgt_len = self.settings["tgt_len"]

    def build(self, **options) -> DEQTransformerLM:
        shapes = {
            key: self.settings[key]
            for key in ("n_token", "n_head", "d_head", "d_model", "d_inner", "d_embed", "div_val", "wnorm", "mem_len")
        }
        config = DEQTransformerConfig(cutoffs=tuple(self.settings["cutoffs"]), **(shapes | options))
        model = DEQTransformerLM(config).double()
        model.load_state_dict(load_state_dict(self.weights))
        return model

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def segments(self):
        """(tokens, targets), (L, B) each, of the three consecutive segments."""
        tokens = self.tensor("tokens")
        for start in range(0, 3 * self.tgt_len, self.tgt_len):
            yield tokens[start : start + self.tgt_len], tokens[start + 1 : start + 1 + self.tgt_len]
