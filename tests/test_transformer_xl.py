"""The Transformer-XL: what it remembers and sees, and how it begins."""

import pytest
import torch
from tiny_peers import XL

from config.flags import CommandLine
from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.model import TransformerXLLM
from models.transformer_xl.spec import SPEC
from modules.depth import AsBuilt


def small(**changes) -> TransformerXLLM:
    """A model in float64 whose weights are large enough that everything matters."""
    shapes = {"n_token": 13, "n_layer": 3, "n_head": 2, "d_head": 3, "d_model": 8, "d_inner": 12, "d_embed": 8}
    torch.manual_seed(3)
    model = TransformerXLLM(TransformerXLConfig(**{**shapes, "mem_len": 5, **changes})).double()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("layer_norm.weight") else 0.0, 0.4)
    return model


def tokens(length: int, rows: int = 3) -> torch.Tensor:
    return torch.randint(13, (length, rows), generator=torch.Generator().manual_seed(1))


CHOICES = [{}, {"pre_lnorm": True}, {"same_length": True}, {"clamp_len": 2}]


@pytest.mark.parametrize("changes", CHOICES)
def test_rows_do_not_know_of_each_other(changes):
    model, text = small(**changes), tokens(14)
    whole = model.hidden(text[7:], model.hidden(text[:7], None, AsBuilt()).memory, AsBuilt())
    for row in range(3):
        own = text[:, row : row + 1]
        alone = model.hidden(own[7:], model.hidden(own[:7], None, AsBuilt()).memory, AsBuilt())
        torch.testing.assert_close(alone.states[:, 0], whole.states[:, row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", CHOICES)
def test_a_text_may_be_read_in_parts_of_any_length(changes):
    """What the memory still holds whole: its inputs are those of each layer."""
    model, text = small(**{**changes, "mem_len": 20}), tokens(9)
    whole, memory, states = model.hidden(text, None, AsBuilt()), None, []
    for part in text.split([4, 1, 3, 1]):
        read = model.hidden(part, memory, AsBuilt())
        memory = read.memory
        states.append(read.states)
    torch.testing.assert_close(torch.cat(states), whole.states, rtol=0, atol=1e-6)
    for part, at_once in zip(memory, whole.memory, strict=True):
        torch.testing.assert_close(part, at_once, rtol=0, atol=1e-6)


def test_each_layer_remembers_its_own_inputs():
    model, text = small(), tokens(7)
    memory = model.hidden(text, None, AsBuilt()).memory
    assert [tuple(part.shape) for part in memory] == [(3, 5, 8)] * 3
    assert not any(part.requires_grad for part in memory)
    assert torch.equal(memory[0], model.word_emb(text.t())[:, 2:])
    for i in range(3):  # every part matters to what comes next
        changed = [part + (j == i) for j, part in enumerate(memory)]
        states = [model.hidden(tokens(2), part, AsBuilt()).states for part in (memory, changed)]
        assert not torch.equal(*states)


def test_attention_sees_no_future_and_no_more_than_it_may():
    text = tokens(9, rows=1)
    other = text.clone()
    other[0] = (text[0] + 1) % 13
    for horizon, reached in (({}, True), ({"n_layer": 1, "mem_len": 3, "same_length": True}, False)):
        model = small(**horizon)
        a, b = (model.hidden(part, None, AsBuilt()).states for part in (text, other))
        assert torch.equal(a[8], b[8]) != reached
        late = other.clone()
        late[8] = (text[8] + 1) % 13
        assert torch.equal(model.hidden(late, None, AsBuilt()).states[:8], b[:8])


def test_far_keys_have_the_position_of_the_clamp():
    near, far = small(clamp_len=2)._positions(3), small(clamp_len=2)._positions(6)
    assert torch.equal(far[3:], near)
    assert torch.equal(far[:4], near[:1].expand(4, -1))
    assert torch.equal(small(clamp_len=2)._positions(2), small()._positions(2))


def test_other_reach_and_no_other_build():
    model = small()
    assert model.with_config(TransformerXLConfig(**{**vars(model.config), "mem_len": 2})).memory_length == 2
    with pytest.raises(ValueError, match=r"`n_layer` belongs to the model's build"):
        model.with_config(TransformerXLConfig(**{**vars(model.config), "n_layer": 2}))


def test_dropout_is_drawn_in_training_alone():
    model, text = small(dropout=0.3, dropatt=0.3), tokens(6)
    assert not torch.equal(*(model.hidden(text, None, AsBuilt()).raw for _ in range(2)))
    model.eval()
    assert torch.equal(*(model.hidden(text, None, AsBuilt()).states for _ in range(2)))


def test_scales_of_the_norms_start_at_one():
    model, settings = small(), call_settings("--init_std 0.001")
    SPEC.initialise(model, settings)
    state = model.state_dict()
    assert (state["layers.1.pos_ff.layer_norm.weight"] - 1).abs().max() < 0.01
    assert state["layers.1.pos_ff.layer_norm.bias"].abs().max() == 0
    assert 0 < state["layers.1.dec_attn.qkv_net.weight"].abs().max() < 0.01
    assert 0 < state["r_w_bias"].abs().max() < 0.01


def call_settings(flags: str):
    return CommandLine("x", SPEC).parse(f"--dataset text {XL} {flags}".split())
