"""The Transformer-XL gives the published code's losses, memories and gradients: `golden/transformer_xl.*`."""

import json
import re
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.model import TransformerXLLM
from models.transformer_xl.weights import TransformerXLWeights
from modules.depth import AsBuilt
from system.state_dicts import load_state_dict

FILES = Path(__file__).parent / "golden" / "transformer_xl"
SHAPES = ("n_token", "n_layer", "n_head", "d_head", "d_model", "d_inner", "d_embed", "div_val", "mem_len", "pre_lnorm")
FURTHER = ("clamp_len", "same_length")  # settings that another set of files may have


class Golden:
    """Settings, arrays and weights of the files."""

    @cached_property
    def settings(self):
        return json.loads(FILES.with_suffix(".json").read_text())

    @cached_property
    def arrays(self):
        return np.load(FILES.with_suffix(".npz"))

    @cached_property
    def state(self):
        return load_state_dict(FILES.with_suffix(".pkl"))

    def config(self):
        settings = self.settings
        named = {name: settings[name] for name in (*SHAPES, *FURTHER) if name in settings}
        return TransformerXLConfig(
            cutoffs=tuple(settings["cutoffs"]), tied=settings.get("tie_weights", True), dropout=0.0, **named
        )

    def build(self, state):
        """The model in float64 with the weights of a state dict."""
        config, reader = self.config(), TransformerXLWeights()
        model, current = TransformerXLLM(config).double(), reader.modern(state)
        reader.check(current, config)
        model.load_state_dict(current)
        return model

    def segments(self):
        """(tokens, targets), (L, B) each, of the consecutive segments."""
        tokens, length = torch.from_numpy(self.arrays["tokens"]), self.settings["tgt_len"]
        starts = range(0, len(tokens) - 1, length)
        return [(tokens[start : start + length], tokens[start + 1 : start + 1 + length]) for start in starts]

    def gradients(self, model):
        """(segment, gradient that each parameter should have), summed over the names of one that has several."""
        pattern = re.compile(r"seg(\d+)_grad_(.*)")
        matches = [match for name in self.arrays.files if (match := pattern.fullmatch(name))]
        (segment,) = {int(match[1]) for match in matches}
        left = {_named(match[2]): torch.from_numpy(self.arrays[match[0]]) for match in matches}
        names = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        wanted = {}
        for name, parameter in model.named_parameters():
            present = [left.pop(alias) for alias in names[id(parameter)] if alias in left]
            wanted[name] = sum(present, start=torch.zeros_like(parameter))
        assert not left, f"gradients of parameters that the model does not have: {left.keys()}"
        return segment, wanted


def _named(name):
    """The name here: projections are bare parameters there."""
    return re.sub(r"(_projs\.\d+)$", r"\1.weight", name)


GOLDEN = Golden()


def under_current_names(state):
    return {_named(name): value for name, value in state.items()}


def in_a_wrapper(state):
    return {f"module.{name}": value for name, value in state.items()}


LAYOUTS = {"published": dict, "current": under_current_names, "data-parallel": in_a_wrapper}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [False, True])
def test_losses_and_memories_are_the_published_codes(training, layout):
    model, memory, outputs = GOLDEN.build(LAYOUTS[layout](GOLDEN.state)).train(training), None, []
    with torch.set_grad_enabled(training):
        for i, (tokens, targets) in enumerate(GOLDEN.segments()):
            output = model(tokens, targets, memory, AsBuilt())
            memory = output.memory
            outputs.append(output.raw.detach())
            wanted = float(GOLDEN.arrays[f"seg{i}_loss"])
            assert output.nll.mean().item() == pytest.approx(wanted, rel=1e-10, abs=0)
    assert f"seg{i + 1}_loss" not in GOLDEN.arrays.files
    # There the last output is remembered, too, though no layer reads it.
    remembered = [*(part.transpose(0, 1) for part in memory), torch.cat(outputs)[-GOLDEN.settings["mem_len"] :]]
    wanted = [torch.from_numpy(GOLDEN.arrays[f"mem_{i}"]) for i in range(GOLDEN.settings["n_layer"] + 1)]
    for found, there in zip(remembered, wanted, strict=True):
        torch.testing.assert_close(found, there, rtol=0, atol=1e-10)


def test_gradients_are_the_published_codes():
    model, memory = GOLDEN.build(GOLDEN.state), None
    segment, wanted = GOLDEN.gradients(model)
    for i, (tokens, targets) in enumerate(GOLDEN.segments()[: segment + 1]):
        output = model(tokens, targets, memory, AsBuilt())
        memory = output.memory
        if i == segment:
            output.nll.mean().backward()
    for name, parameter in model.named_parameters():
        error = (parameter.grad - wanted[name]).norm() / wanted[name].norm()
        assert error < 1e-8, name
