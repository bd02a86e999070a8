"""Packed products: the same numbers as plain ones, and used only where no gradient is asked for."""

import pytest
import torch
from solved_model import SolvedLM
from test_deq_transformer import TINY, batch

from models.transformers.attention import Positions, visibility
from modules.packed_linear import PackedLinear, can_pack

needs_packing = pytest.mark.skipif(not can_pack(torch.zeros(1, 1)), reason="PyTorch without oneDNN")


@needs_packing
@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 3, 5)])
@pytest.mark.parametrize("relu", [False, True])
def test_products_are_the_plain_ones(shape, relu):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(11, 5, generator=generator), torch.randn(11, generator=generator)
    x = torch.randn(shape, generator=generator)
    expected = torch.nn.functional.linear(x, weight, bias)
    with torch.no_grad():
        found = PackedLinear(weight, bias, n_rows=6)(x, relu=relu)
    torch.testing.assert_close(found, expected.relu() if relu else expected, rtol=1e-5, atol=1e-5)


def test_only_single_precision_outside_autocast_is_packed():
    assert not can_pack(torch.zeros(1, 1, dtype=torch.float64))
    assert not can_pack(torch.zeros(1, 1, dtype=torch.bfloat16))
    assert not can_pack(torch.zeros(1, 1, device="meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_pack(torch.zeros(1, 1))


@needs_packing
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_cell_gives_the_same_with_and_without_packing(dropout):
    torch.manual_seed(0)
    model = SolvedLM(**(TINY | {"dropout": dropout})).train()
    u, memory = torch.randn(3, 11, 24), torch.randn(3, 5, 8)
    places = Positions(model.pos_emb(11), visibility(6, 5, 0, u))
    plain = model.func.context(memory, u, places)
    packed = plain.pack(n_rows=18)
    assert packed.feed_forward.packed is not None
    z = torch.randn(3, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.func(z, packed), model.func(z, plain), rtol=1e-4, atol=1e-5)
        rows = torch.tensor([2, 0])
        chosen = model.func(z[rows], packed.select(rows))
        torch.testing.assert_close(chosen, model.func(z, plain)[rows], rtol=1e-4, atol=1e-5)
    with_gradients = model.func(z.requires_grad_(), packed)
    assert torch.equal(with_gradients, model.func(z, plain))
    assert with_gradients.requires_grad


@needs_packing
def test_every_evaluation_of_a_solve_but_the_last_is_packed(monkeypatch):
    model = SolvedLM(**(TINY | {"f_thres": 6, "f_eps": 0.0, "solver": "broyden"}))
    calls = []
    original = PackedLinear.__call__
    monkeypatch.setattr(PackedLinear, "__call__", lambda self, x, **kw: calls.append(1) or original(self, x, **kw))
    model(*batch()).nll.mean().backward()
    assert len(calls) == 2 * 7
    calls.clear()
    model(*batch(), n_layer=3)
    assert not calls
