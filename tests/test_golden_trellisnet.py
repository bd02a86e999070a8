"""The DEQ-TrellisNet gives the original's losses, outputs, memories and gradients: `golden/trellisnet.*`."""

import json
import re
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.model import DEQTrellisNetLM
from models.trellisnets.weights import DEQTrellisNetWeights
from modules.depth import Applications
from modules.deq import DEQModule
from system.state_dicts import load_state_dict

FILES = Path(__file__).parent / "golden" / "trellisnet"
TIGHT = DEQModule(solver="broyden", f_thres=300, b_thres=300, f_eps=1e-12, b_eps=1e-12)


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

    def build(self, state):
        """The model in float64 with the weights of a state dict of either layout."""
        settings = self.settings
        config = DEQTrellisNetConfig(
            n_token=settings["n_token"],
            d_embed=settings["ninp"],
            nhid=settings["nhid"],
            nout=settings["nout"],
            ksize=settings["kernel_size"],
            dilation=settings["dilation"],
            wnorm=settings["wnorm"],
            tied=settings["tie_weights"],
        )
        model, reader = DEQTrellisNetLM(config).double(), DEQTrellisNetWeights()
        current = reader.modern(state)
        reader.check(current, config)
        model.load_state_dict(current)
        return model

    def segments(self):
        """(tokens, targets), (L, B) each, of the consecutive segments; L is that of the outputs."""
        tokens = torch.from_numpy(self.arrays["tokens"])
        length = len(self.arrays["eval_seg0_hidden"])
        starts = range(0, len(tokens) - 1, length)
        return [(tokens[start : start + length], tokens[start + 1 : start + 1 + length]) for start in starts]

    def modes(self):
        return sorted({match[1] for name in self.arrays.files if (match := re.match(r"(\w+)_seg0_loss$", name))})


GOLDEN = Golden()


def without_copies(state):
    return {name: value for name, value in state.items() if "func_copy" not in name and ".deq." not in name}


def in_a_wrapper(state):
    return {f"module.{name}": value for name, value in state.items()}


LAYOUTS = {"2020": dict, "current": without_copies, "2020, data-parallel": in_a_wrapper}


def depth_of(mode):
    return Applications(GOLDEN.settings["n_layer"]) if mode == "shallow" else TIGHT


def to_states(mode):
    """The original solved to a residual of 1e-6·√n over the n entries of the batch's states: no more can be asked."""
    n_entries = GOLDEN.arrays["eval_seg0_hidden"][..., 0].size * GOLDEN.arrays["eval_seg0_mem"].shape[-1]
    return 1e-10 if mode == "shallow" else 1e-6 * n_entries**0.5


TO_LOSS = {"shallow": 1e-10, "eval": 1e-7, "train": 1e-7}


def test_the_files_hold_what_is_tested():
    assert GOLDEN.modes() == ["eval", "shallow", "train"]
    assert len(GOLDEN.segments()) >= 2
    assert without_copies(GOLDEN.state).keys() < GOLDEN.state.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", GOLDEN.modes())
def test_losses_outputs_and_memories_are_the_originals(mode, layout):
    model = GOLDEN.build(LAYOUTS[layout](GOLDEN.state)).train(mode != "eval")
    memory = None
    with torch.set_grad_enabled(mode != "eval"):
        for i, (tokens, targets) in enumerate(GOLDEN.segments()):
            hidden = model.hidden(tokens, memory, depth_of(mode))
            loss = model(tokens, targets, memory, depth_of(mode)).nll.mean().item()
            memory = hidden.memory
            assert loss == pytest.approx(float(GOLDEN.arrays[f"{mode}_seg{i}_loss"]), rel=TO_LOSS[mode])
            for found, name in ((hidden.states, "hidden"), (memory.transpose(0, 1), "mem")):
                wanted = torch.from_numpy(GOLDEN.arrays[f"{mode}_seg{i}_{name}"])
                torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=to_states(mode))


@pytest.mark.parametrize(("mode", "tolerance"), [("train", 1e-5), ("shallow", 1e-10)])
def test_gradients_are_the_originals(mode, tolerance):
    model = GOLDEN.build(GOLDEN.state)
    pattern = re.compile(rf"{mode}_seg(\d+)_grad_(.*)")
    matches = [match for name in GOLDEN.arrays.files if (match := pattern.fullmatch(name))]
    (segment,) = {int(match[1]) for match in matches}
    memory = None
    for i, (tokens, targets) in enumerate(GOLDEN.segments()[: segment + 1]):
        output = model(tokens, targets, memory, depth_of(mode))
        memory = output.memory
        if i == segment:
            output.nll.mean().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == {match[2] for match in matches}
    for match in matches:
        wanted = torch.from_numpy(GOLDEN.arrays[match[0]])
        error = (found[match[2]] - wanted).norm() / wanted.norm()
        assert error < tolerance, match[2]
