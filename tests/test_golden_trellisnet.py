"""The DEQ-TrellisNet gives the original's losses, outputs, memories and gradients: `golden/trellisnet.*`."""

import re

import pytest
import torch
from golden_models import GoldenFiles, in_a_wrapper

from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.model import DEQTrellisNetLM
from models.trellisnets.weights import DEQTrellisNetWeights
from modules.depth import Applications
from modules.deq import DEQModule

TIGHT = DEQModule(solver="broyden", f_thres=300, b_thres=300, f_eps=1e-12, b_eps=1e-12)


class Golden(GoldenFiles):
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
        return self.segments_of(len(self.arrays["eval_seg0_hidden"]))

    def modes(self):
        return sorted({match[1] for name in self.arrays.files if (match := re.match(r"(\w+)_seg0_loss$", name))})


GOLDEN = Golden("trellisnet")


def without_copies(state):
    return {name: value for name, value in state.items() if "func_copy" not in name and ".deq." not in name}


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
    segment, wanted = GOLDEN.gradients(f"{mode}_")
    memory = None
    for i, (tokens, targets) in enumerate(GOLDEN.segments()[: segment + 1]):
        output = model(tokens, targets, memory, depth_of(mode))
        memory = output.memory
        if i == segment:
            output.nll.mean().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = (found[name] - value).norm() / value.norm()
        assert error < tolerance, name
