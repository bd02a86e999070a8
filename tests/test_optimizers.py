"""Clipping, and the optimizers that the settings name."""

import math

import pytest
import torch
from torch import nn

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
    optimizer = OPTIMIZERS[name]([nn.Parameter(torch.ones(1))], lr=0.5, weight_decay=0.5)
    set_rate(optimizer, 0.125)
    assert type(optimizer).__name__ == name
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.5)


def test_radams_weight_decay_is_decoupled():
    (group,) = OPTIMIZERS["RAdam"]([nn.Parameter(torch.ones(1))], lr=0.1).param_groups
    assert group["decoupled_weight_decay"]
