"""The DEQ-TrellisNet's head, parameters, settings and files."""

import dataclasses
import re

import pytest
import torch
from tiny_trellisnet import CONFIG, B, L, V, build, segment

from models.trellisnets.model import DEQTrellisNetLM, initialise_parameters
from models.trellisnets.weights import DEQTrellisNetWeights
from modules.depth import Applications
from utils.softmax import MixtureOfSoftmaxes


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"wnorm": False, "ksize": 3},
        {"tied": False, "nout": 5},
        {"n_experts": 3, "nout": 5},
        {"adaptive": True, "cutoffs": (7, 15), "div_val": 2},
        {"adaptive": True, "cutoffs": (7,), "d_embed": 4},
        {"adaptive": True},
    ],
)
def test_head_gives_probabilities_of_which_nll_is_the_targets(changes):
    model = build(**changes).eval()
    tokens, targets = segment()
    hidden = model.hidden(tokens, None, Applications(3))
    log_prob = model.head.log_prob(hidden.states.flatten(0, 1))
    torch.testing.assert_close(log_prob.logsumexp(dim=1), torch.zeros(L * B).double(), rtol=0, atol=1e-12)
    nll = model(tokens, targets, None, Applications(3)).nll
    torch.testing.assert_close(-log_prob.gather(1, targets.flatten()[:, None]).view(L, B), nll)
    DEQTrellisNetWeights().check(model.state_dict(), model.config)
    nll.mean().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_tied_weights_are_one_parameter():
    model = build(n_experts=2, nout=5)
    assert model.decoder.weight is model.encoder.weight
    assert set(map(id, model.embedding_parameters())) == {id(model.encoder.weight)}
    apart = build(tied=False)
    assert apart.decoder.weight is not apart.encoder.weight


@pytest.mark.parametrize("wnorm", [False, True])
def test_initialisation(wnorm):
    model = DEQTrellisNetLM(dataclasses.replace(CONFIG, n_token=500, d_embed=40, nout=40, nhid=20, wnorm=wnorm))
    initialise_parameters(model)
    conv = model.trellisnet.func.full_conv
    weight = conv.weight_v if wnorm else conv.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert conv.bias.std().item() == pytest.approx(0.01, rel=0.2)
    torch.testing.assert_close(conv.matrix(), weight.transpose(1, 2).flatten(1))
    assert model.encoder.weight.abs().max() <= 0.1
    assert model.encoder.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert not model.decoder.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nout": 5}, "`d_embed` 6 is not `nout` 5"),
        ({"adaptive": True, "n_experts": 2}, "`n_experts`"),
        ({"div_val": 2}, "`div_val` is 2"),
        ({"adaptive": True, "cutoffs": (30,)}, "`cutoffs` are 30"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nhid": 5}, "`nhid` is 4 but the file has 5: pass `nhid` 5"),
        ({"nout": 7, "d_embed": 7}, "`d_embed` is 6 but the file has 7.*`nout` is 6 but the file has 7"),
        ({"ksize": 3}, "`ksize` is 2 but the file has 3"),
        ({"wnorm": False}, "leave `wnorm` out"),
        ({"n_token": V + 1}, "the data's vocabulary has 23 words but the file has 24"),
        ({"n_experts": 3}, "`n_experts` is 0 but the file has 3"),
        ({"adaptive": True}, "pass `adaptive`"),
    ],
)
def test_a_file_of_other_settings_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DEQTrellisNetWeights().check(build(**changes).state_dict(), CONFIG)


def test_projections_that_are_bare_parameters_are_read():
    """As state dicts of 2019 and 2020 have those of an adaptive embedding and softmax."""
    state = build(adaptive=True, cutoffs=(7, 15), div_val=2).state_dict()
    older = {re.sub(r"(_projs\.\d+)\.weight$", r"\1", name): value for name, value in state.items()}
    assert len(older.keys() - state.keys()) == 6
    found = DEQTrellisNetWeights().modern({f"module.{name}": value for name, value in older.items()})
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_of_another_model_is_refused():
    with pytest.raises(ValueError, match="pass the state dict of a DEQ-TrellisNet"):
        DEQTrellisNetWeights().check({"func.dec_attn.r_w_bias": torch.zeros(2, 2)}, CONFIG)


def test_latents_of_a_mixture_are_dropped_where_it_is_told_to():
    """Not where the modules that it is made of are in training mode."""
    maps = torch.nn.Linear(5, 3), torch.nn.Linear(5, 12), torch.nn.Linear(4, V)
    hidden, targets = torch.randn(L, B, 5), segment()[1]
    still, dropped = (MixtureOfSoftmaxes(*maps, dropout=0.5, training=training) for training in (False, True))
    assert torch.equal(still.nll(hidden, targets), MixtureOfSoftmaxes(*maps).nll(hidden, targets))
    assert not torch.equal(dropped.nll(hidden, targets), still.nll(hidden, targets))


def test_latents_of_a_mixture_have_a_mask_a_sequence():
    model = build(n_experts=3, nout=5, dropoutl=0.5).train()
    nll = model.head.nll(torch.ones(L, 40, 5).double(), torch.zeros(L, 40, dtype=torch.int64))
    assert torch.equal(nll, nll[:1].expand(L, -1))
    assert len(nll[0].unique()) > 20
    model.eval()
    assert len(model.head.nll(torch.ones(L, 40, 5).double(), torch.zeros(L, 40, dtype=torch.int64)).unique()) == 1
