"""Where solves start, the layers around an equilibrium, and what settings are shown and refused."""

import pytest
import torch
from tiny_cells import BOUNDED, CHOICES, TIGHT, TORCHDEQS, tiny
from tiny_run import COMMAND, MODEL
from tiny_transformer import TINY, batch

from evaluation.trained_model import make_model
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from models.transformers.weights import ShownSettings
from modules.report import Termination


@torch.no_grad()
@pytest.mark.parametrize("options", CHOICES)
@pytest.mark.parametrize("z_init", ["injection", "previous"])
def test_a_solve_ends_at_the_same_equilibrium_wherever_it_starts(options, z_init):
    segments = [batch(seed=seed) for seed in (1, 2)]
    memory = tiny(**options, **TIGHT)(*segments[0]).memory
    (z, _), (other, start) = (
        (output.memory.z, model.problem(segments[1][0], memory).z0)
        for model in (tiny(**options, **TIGHT, z_init=name) for name in ("zero", z_init))
        for output in [model(*segments[1], memory)]
    )
    assert float(start.norm()) > 0.1
    torch.testing.assert_close(z, other, rtol=0, atol=1e-9)


@torch.no_grad()
def test_states_before_that_resemble_the_next_ones_save_steps():
    """In a text of one word over and over they nearly are the next ones."""
    tokens = torch.full((5, 2), 7)
    steps = {}
    for name in ("zero", "previous"):
        model, memory = tiny(z_init=name, solver="fixed_point", f_thres=200, f_eps=1e-4), None
        for _ in range(4):
            output = model(tokens, tokens, memory)
            memory = output.memory
        assert output.solve.forward.termination is Termination.CONVERGED
        steps[name] = output.solve.forward.n_steps
    assert steps["previous"] < steps["zero"] / 2


@torch.no_grad()
def test_starts_are_what_they_are_called():
    segment, longer = batch(length=3), batch(length=8)
    memory = tiny(**TIGHT)(*longer).memory  # of 5 positions
    zero, injection, previous = (tiny(z_init=name) for name in ("zero", "injection", "previous"))
    assert not zero.problem(segment[0], memory).z0.any()
    u = tiny(**TIGHT)(*segment, memory).memory.u[:, -3:]
    assert torch.equal(injection.problem(segment[0], memory).z0, u[..., -8:])
    assert torch.equal(previous.problem(segment[0], memory).z0, memory.z[:, -3:])
    late = previous.problem(longer[0], memory).z0
    assert torch.equal(late[:, 3:], memory.z)
    assert not late[:, :3].any()
    assert not previous.problem(segment[0], None).z0.any()


@torch.no_grad()
def test_the_memory_of_the_layers_is_what_they_read():
    model = tiny(layers_before=1, layers_after=1, mem_len=8, f_thres=5).eval()
    tokens, targets = batch(length=5)
    output = model(tokens, targets)
    embedded, after = output.memory.layers.split(8, dim=2)
    torch.testing.assert_close(embedded, model.word_emb(tokens.t()))
    assert torch.equal(after, output.memory.z)
    further = model(*batch(length=5, seed=2), output.memory).memory
    assert [tuple(part.shape) for part in further] == [(3, 8, 8), (3, 8, 24), (3, 8, 16)]
    for new, old in zip(further, output.memory, strict=True):
        assert torch.equal(new[:, :3], old[:, -3:])


@torch.no_grad()
def test_layers_are_those_of_transformer_xl():
    """In segments with a long memory they come to what they do at once, in their states and beyond."""
    model = tiny(layers_before=2, layers_after=2, mem_len=100, **TIGHT).eval()
    tokens, targets = batch(length=9)
    whole = model(tokens, targets)
    memory, parts = None, []
    for start in (0, 4, 5):
        part = slice(start, {0: 4, 4: 5, 5: 9}[start])
        output = model(tokens[part], targets[part], memory)
        memory = output.memory
        parts.append(output.nll)
    torch.testing.assert_close(torch.cat(parts), whole.nll, rtol=0, atol=1e-9)
    torch.testing.assert_close(memory.layers, whole.memory.layers, rtol=0, atol=1e-9)


def test_learned_norms_and_what_is_added_to_the_state_begin_plainly():
    flags = "--pre_lnorm --outer_norm --norm_affine --heads_norm --inject both --cell_layers 2 --layers_after 1"
    settings = COMMAND.parse(f"{MODEL} {flags}".split())
    model = make_model(COMMAND, settings, 25, torch.device("cpu"))
    norms = {name: value for name, value in model.named_parameters() if "norm." in name}
    assert len(norms) == 2 * (3 * 3 + 1)
    for name, value in norms.items():
        assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
    assert torch.equal(model.inject_conv.weight[-8:, :, 0], torch.eye(8))
    assert 0 < model.inject_conv.weight[:24].abs().max().item() < 0.1
    f, z = model.problem(batch()[0] % 25, None)
    assert f(z).norm().item() == pytest.approx(z.numel() ** 0.5, rel=0.01)


@pytest.mark.parametrize("options", [{}, TORCHDEQS, BOUNDED, {"inject": "residual"}, {"inject": "both"}, *CHOICES])
def test_shapes_show_the_settings(options):
    config = DEQTransformerConfig(**(TINY | options))
    with torch.device("meta"):
        state = DEQTransformerLM(config).state_dict()
    shown = vars(ShownSettings.of(state))
    unseen = () if config.norm_affine else ("heads_norm", "outer_norm")
    for name in unseen:
        assert shown.pop(name) is None
    assert shown == {name: getattr(config, name) for name in shown}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inject": "nowhere"}, "`inject` is 'nowhere': choose one of attention, residual, both"),
        ({"z_init": "one"}, "`z_init` is 'one': choose one of zero, injection, previous"),
        ({"z_init": "previous", "mem_len": 0}, "`z_init` previous needs a memory, but `mem_len` is 0"),
        ({"cell_layers": 0}, "`cell_layers` is 0: pass 1 or more"),
        ({"layers_before": -1}, "`layers_before` is -1: pass 0 or more"),
        ({"layers_after": 1.5}, "`layers_after` is 1.5, a float: pass a whole number"),
    ],
)
def test_settings_that_make_no_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DEQTransformerConfig(**(TINY | options))
