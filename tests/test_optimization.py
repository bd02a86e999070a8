"""Clipping, and the optimizers that the settings name."""

import math

import pytest
import torch
from torch import nn

from utils.optimization import clip, clipped_parameters, make_optimizer
from utils.settings import OPTIMIZERS, Settings


def two_layers() -> nn.ModuleDict:
    """An embedding and a softmax layer tied to it."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"word_emb": nn.Embedding(5, 3), "crit": nn.Linear(3, 5)})
    model["crit"].weight = model["word_emb"].weight
    return model


def test_clipping_is_by_the_global_norm():
    model = two_layers()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    wanted = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert float(clip(list(model.parameters()), 0.25)) == pytest.approx(wanted)
    assert wanted > 0.25
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert norm == pytest.approx(0.25, rel=1e-4)


def test_clip_nonemb_leaves_out_the_embedding_and_what_is_tied_to_it():
    model = two_layers()
    assert [id(parameter) for parameter in clipped_parameters(model, embeddings=False)] == [id(model["crit"].bias)]
    assert len(clipped_parameters(model, embeddings=True)) == 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_their_rate_and_weight_decay(name):
    optimizer = make_optimizer([nn.Parameter(torch.ones(1))], Settings(optim=name, weight_decay=0.5), 0.125)
    assert type(optimizer).__name__ == name
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.5)


def test_radams_weight_decay_is_decoupled():
    (group,) = make_optimizer([nn.Parameter(torch.ones(1))], Settings(optim="RAdam"), 0.1).param_groups
    assert group["decoupled_weight_decay"]
