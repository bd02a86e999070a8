"""Evaluations make of the weights once what they need; nothing else is kept, and nothing longer."""

import copy
import io

import pytest
import torch
from solved_model import SolvedLM
from tiny_transformer import TINY, batch

from models.protocol import CellMap
from models.trellisnets.cell import TrellisCell
from modules.fixed_weights import KeepsWeights, fixed_weights
from modules.optimizations import NormalizableLinear
from modules.packed_linear import PackedLinear


@pytest.fixture
def made(monkeypatch):
    """What is made of weights: a name for each."""
    names = []
    normalise, pack = torch._weight_norm, PackedLinear.__init__
    monkeypatch.setattr(torch, "_weight_norm", lambda *args: names.append("normalise") or normalise(*args))
    monkeypatch.setattr(PackedLinear, "__init__", lambda self, *args: names.append("pack") or pack(self, *args))
    return names


@torch.no_grad()
def test_a_second_segment_makes_nothing_anew_and_scores_the_same(made):
    model = SolvedLM(**TINY, wnorm=True, solver="broyden", f_thres=6)
    model.model.eval()
    anew = [model(*batch()).nll for _ in range(2)]
    of_one = made[: len(made) // 2]
    assert "normalise" in of_one
    made.clear()
    with fixed_weights(model.model):
        kept = [model(*batch()).nll for _ in range(2)]
        assert made == of_one
    assert all(map(torch.equal, kept, anew))


@torch.no_grad()
def test_what_is_kept_ends_with_the_evaluation():
    layer = NormalizableLinear(3, 4, bias=False, wnorm=True).eval()
    with fixed_weights(layer):
        before = layer.matrix()
        with fixed_weights(layer):
            assert layer.matrix() is before
        assert layer.matrix() is before, "the outer one goes on"
    layer.weight_g.mul_(2)
    torch.testing.assert_close(layer.matrix(), 2 * before)
    with pytest.raises(KeyError), fixed_weights(layer):
        layer.kept["what was never made"]
    assert layer.kept is None


def test_gradients_reach_the_weights_all_the_same():
    layer = NormalizableLinear(3, 4, bias=False, wnorm=True).eval()
    with fixed_weights(layer):
        with torch.no_grad():
            layer.matrix()
        layer.matrix().sum().backward()
    assert layer.weight_g.grad is not None


def test_copies_keep_nothing():
    model = SolvedLM(**TINY, wnorm=True, solver="broyden", f_thres=6)
    model.model.eval()
    with fixed_weights(model.model), torch.no_grad():
        model(*batch())
        twin = copy.deepcopy(model.model)
    assert all(module.kept is None for module in twin.modules() if isinstance(module, KeepsWeights))
    torch.save(twin, io.BytesIO())


@torch.no_grad()
def test_a_convolution_is_kept_too(made):
    cell = TrellisCell(4, kernel=2, dilation=1, dropouth=0.0, wdrop=0.5, wnorm=True)

    def segments():
        for _ in range(2):
            f = CellMap(cell, cell.context(torch.ones(3, 1, 8), torch.ones(3, 5, 16)))
            z = torch.ones(3, 5, 8)
            yield f.pack(z)(z)

    with fixed_weights(cell):
        one, other = segments()
        assert not torch.equal(one, other), "DropConnect is drawn for each solve of training"
        made.clear()
        cell.eval()
        one, other = segments()
    assert made.count("normalise") == 1
    assert made.count("pack") <= 1
    assert torch.equal(one, other)
    torch.testing.assert_close(one, next(segments()))


@torch.no_grad()
def test_low_precision_is_kept_too(made):
    model = SolvedLM(**TINY, solver="broyden", f_thres=6, amp="bf16")
    model.model.eval()
    with fixed_weights(model.model):
        model(*batch())
        once = list(made)
        model(*batch())
        assert made == once
