"""Packed products: the same numbers as plain ones, and used only where no gradient is asked for."""

import pytest
import torch
from solved_model import SolvedLM
from tiny_transformer import TINY, batch

from models.transformers.attention import Positions, visibility
from models.transformers.feed_forward import PositionwiseFeedForward
from modules.packed_linear import MOST_ROWS, PackedLinear, can_pack, pays_to_pack

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
def test_many_rows_are_not_packed():
    weight = torch.zeros(1, 1)
    assert pays_to_pack(weight, MOST_ROWS)
    assert not pays_to_pack(weight, MOST_ROWS + 1)
    assert not pays_to_pack(weight.double(), 1)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_without_gradients_the_plain_products_are_those_with_them(p):
    torch.manual_seed(0)
    layer = PositionwiseFeedForward(8, 16, dropout=p, wnorm=False).train()
    x = torch.randn(3, 6, 8)
    context = layer.context(3, x)
    with_gradients = layer(x, context)
    with torch.no_grad():
        assert torch.equal(layer(x, context), with_gradients)
    mask = 1 if context.inner_mask is None else context.inner_mask
    inner = torch.relu(x @ context.weight_in.T + context.bias_in) * mask
    torch.testing.assert_close(with_gradients, inner @ context.weight_out.T + context.bias_out)


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
