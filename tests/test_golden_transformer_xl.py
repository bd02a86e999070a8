"""The Transformer-XL gives the published code's losses, memories and gradients: `golden/transformer_xl.*`."""

import re

import pytest
import torch
from golden_models import GoldenFiles, in_a_wrapper, of_parameters

from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.model import TransformerXLLM
from models.transformer_xl.weights import TransformerXLWeights
from modules.depth import AsBuilt

SHAPES = ("n_token", "n_layer", "n_head", "d_head", "d_model", "d_inner", "d_embed", "div_val", "mem_len", "pre_lnorm")
FURTHER = ("clamp_len", "same_length")  # settings that another set of files may have


class Golden(GoldenFiles):
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
        return self.segments_of(self.settings["tgt_len"])


def _named(name):
    """The name here: projections are bare parameters there."""
    return re.sub(r"(_projs\.\d+)$", r"\1.weight", name)


GOLDEN = Golden("transformer_xl")


def under_current_names(state):
    return {_named(name): value for name, value in state.items()}


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
    segment, gradients = GOLDEN.gradients()
    wanted = of_parameters(model, under_current_names(gradients))
    for i, (tokens, targets) in enumerate(GOLDEN.segments()[: segment + 1]):
        output = model(tokens, targets, memory, AsBuilt())
        memory = output.memory
        if i == segment:
            output.nll.mean().backward()
    for name, parameter in model.named_parameters():
        error = (parameter.grad - wanted[name]).norm() / wanted[name].norm()
        assert error < 1e-8, name
