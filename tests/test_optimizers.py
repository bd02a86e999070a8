"""Clipping, and the optimizers that the settings name."""

import dataclasses
import math
import re

import pytest
import torch
from tiny_trained import trained_model, trained_trellisnet
from torch import nn

from system.distributed import World
from training.optimizer import make_optimizer
from training.update import Updater
from utils.optimizers import OPTIMIZERS, Clipping, set_rate


def two_layers() -> nn.Module:
    """An embedding and a softmax layer tied to it."""
    torch.manual_seed(0)
    model = nn.Module()
    model.word_emb, model.crit = nn.Embedding(5, 3), nn.Linear(3, 5)
    model.crit.weight = model.word_emb.weight
    return model


def norm(parameters) -> float:
    return math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in parameters))


@pytest.mark.parametrize("clip_embeddings", [True, False])
def test_clipping_is_by_the_global_norm_and_may_spare_the_embedding_with_what_is_tied_to_it(clip_embeddings):
    model = two_layers()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    weight, bias = model.word_emb.weight, model.crit.bias
    before = norm([weight]), norm([bias])
    clipping = Clipping(model.parameters(), () if clip_embeddings else model.word_emb.parameters(), 0.25)
    assert float(clipping()) == pytest.approx(math.hypot(*before), rel=1e-5)
    assert norm(clipping.clipped) == pytest.approx(0.25, rel=1e-4)
    assert norm([weight]) == before[0] if not clip_embeddings else norm([weight]) < 0.25
    assert len(clipping.clipped) + len(clipping.unclipped) == 2, "what is tied counts once"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_their_rate_and_weight_decay(name):
    optimizer = OPTIMIZERS[name]([nn.Parameter(torch.ones(2, 2))], lr=0.5, weight_decay=0.5)
    set_rate(optimizer, 0.125)
    assert type(optimizer).__name__ == name
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.5)


@pytest.mark.parametrize("further", ["", "--wnorm", "--adaptive --cutoffs 5 9 --div_val 2"])
@pytest.mark.parametrize("make", [trained_model, trained_trellisnet])
def test_muon_takes_a_models_maps(make, further):
    model, settings = (trained := make(further)).model, trained.settings
    settings = dataclasses.replace(settings, optim="Muon", weight_decay=0.1, adam_ratio=0.25)
    matrices, tables, spared = make_optimizer(model, settings).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_muon, of_tables, of_spared = ({names[id(p)] for p in group["params"]} for group in (matrices, tables, spared))
    wanted = {
        name
        for name in names.values()
        if re.search(r"(_net|_conv)\.weight(_v)?$", name) and not name.startswith(("crit", "decoder"))
    }
    assert of_muon == wanted != set()
    assert of_tables == {name for name in names.values() if re.match(r"(word_emb|crit|encoder|decoder).*weight$", name)}
    assert all(name.endswith(("bias", "_g")) for name in of_spared)
    assert of_muon | of_tables | of_spared == set(names.values())
    assert [group["weight_decay"] for group in (matrices, tables, spared)] == [0.1, 0.1, 0.0]
    assert (tables["adam_ratio"], spared["adam_ratio"]) == (0.25, 0.25)


def test_radams_weight_decay_is_decoupled():
    (group,) = OPTIMIZERS["RAdam"]([nn.Parameter(torch.ones(1))], lr=0.1).param_groups
    assert group["decoupled_weight_decay"]


def test_a_run_that_goes_on_has_the_options_of_its_settings():
    trained = trained_model("--optim Muon --adam_ratio 0.25 --weight_decay 0.1 --batch_size 2")
    changed = dataclasses.replace(trained.settings, adam_ratio=0.5, weight_decay=0.2)
    before, after = (Updater.of(trained.model, settings, World()) for settings in (trained.settings, changed))
    after.restore(before.state())
    groups = after.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.2, 0.2, 0.0]
    assert [group.get("adam_ratio") for group in groups] == [None, 0.5, 0.5]
