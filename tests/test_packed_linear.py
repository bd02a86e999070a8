"""Packed products: the same numbers as plain ones, where no gradient is asked for but that to the state."""

from collections import Counter

import pytest
import torch
from solved_model import SolvedLM
from tiny_transformer import TINY, batch

from models.transformers.attention import Positions, visibility
from models.transformers.feed_forward import PositionwiseFeedForward
from modules.packed_linear import MOST_ROWS, PackedBothWays, PackedLinear, can_pack, pays_to_pack
from modules.prepare import FEWEST_PRODUCTS, PREPARATIONS, prepare_adjoint

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


@needs_packing
@pytest.mark.parametrize("has_bf16", [True, False])
def test_only_what_the_processor_multiplies_fast_is_packed_outside_autocast(has_bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert can_pack(torch.zeros(1, 1))
    assert can_pack(torch.zeros(1, 1, dtype=torch.bfloat16)) == has_bf16
    assert not can_pack(torch.zeros(1, 1, dtype=torch.float64))
    assert not can_pack(torch.zeros(1, 1, device="meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_pack(torch.zeros(1, 1))


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_added_to(bias):
    generator = torch.Generator().manual_seed(0)
    weight, x, other = (torch.randn(shape, generator=generator) for shape in ((11, 5), (7, 5), (7, 11)))
    b = torch.randn(11, generator=generator) if bias else None
    expected = torch.nn.functional.linear(x, weight, b)
    packed = PackedLinear(weight, b, n_rows=7)
    torch.testing.assert_close(packed.plus(x, other), expected + other, rtol=1e-5, atol=1e-5)


@needs_packing
def test_a_gradient_flows_to_x_alone():
    generator = torch.Generator().manual_seed(0)
    weight, bias, x, other, y = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((11, 5), (11,), (7, 5), (7, 11), (7, 11))
    )
    packed = PackedBothWays(weight, bias, n_rows=7)
    for value, expected in ((packed(x), x @ weight.T + bias), (packed.plus(x, other), x @ weight.T + bias + other)):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        found = torch.autograd.grad(value, (x, weight, bias, other), y, allow_unused=True, retain_graph=True)
        torch.testing.assert_close(found[0], y @ weight, rtol=1e-5, atol=1e-5)
        assert found[1:] == (None, None, None)


@needs_packing
@pytest.mark.parametrize("has_bf16", [True, False])
def test_many_rows_are_packed_where_the_processor_is_fast_at_it(has_bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    weight = torch.zeros(1, 1)
    assert pays_to_pack(weight, MOST_ROWS)
    assert pays_to_pack(weight, MOST_ROWS + 1) == has_bf16
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
def test_every_evaluation_of_a_solve_but_the_last_is_packed(calls):
    model = SolvedLM(**(TINY | {"f_thres": 6, "f_eps": 0.0, "solver": "broyden"}))
    loss = model(*batch()).nll.mean()
    assert calls == {"plus": 7, "__call__": 3 * 7}, "queries, keys and values; then three further maps"
    loss.backward()
    calls.clear()
    model(*batch(), n_layer=3)
    assert not calls


@needs_packing
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("cell", [{}, {"cell_layers": 2, "inject": "both", "feedback": 0.3, "norm_affine": True}])
def test_a_long_backward_solve_is_of_packed_products(dropout, cell, calls):
    steps = FEWEST_PRODUCTS + 4
    solves = {"f_thres": 20, "f_eps": 1e-6, "b_thres": steps, "b_eps": 0.0, "dropout": dropout, "solver": "broyden"}
    gradients, products = {}, {}
    for how in PREPARATIONS:
        torch.manual_seed(0)
        model = SolvedLM(**(TINY | solves | cell)).train()
        model.deq.prepare = how
        loss = model(*batch()).nll.mean()
        calls.clear()
        loss.backward()
        products[how] = calls.total()
        gradients[how] = {name: p.grad for name, p in model.named_parameters()}
    n_cells = cell.get("cell_layers", 1)
    of_f = 4 * n_cells  # the graph is made once, and each of its four maps transposed for every product
    assert products == {"packed": of_f * (1 + steps + 1), "eager": 0}
    for name, gradient in gradients["packed"].items():
        torch.testing.assert_close(gradient, gradients["eager"][name], rtol=1e-3, atol=2e-5, msg=name)


@needs_packing
def test_a_short_backward_solve_uses_the_graph_that_is_there(calls):
    model = SolvedLM(**(TINY | {"b_thres": FEWEST_PRODUCTS - 1, "b_eps": 0.0, "solver": "broyden"}))
    loss = model(*batch()).nll.mean()
    calls.clear()
    loss.backward()
    assert not calls
    assert prepare_adjoint(torch.cos, torch.zeros(2, 3), "packed", FEWEST_PRODUCTS) is None, "it has no such method"
    f, z = model.problem(*batch()[:1], None)
    assert prepare_adjoint(f, z, "packed", FEWEST_PRODUCTS) is not None
    assert prepare_adjoint(f, z.double(), "eager", FEWEST_PRODUCTS) is None
    assert f.adjoint(z).context.attention.packed_adjoint is not None


@needs_packing
def test_no_gradient_leaves_the_map_that_is_made_for_the_products():
    model = SolvedLM(**TINY)
    f, z = model.problem(*batch()[:1], None)
    z = z.requires_grad_()
    value, plain = f.adjoint(z)(z), f(z)
    torch.testing.assert_close(value, plain, rtol=1e-4, atol=1e-5)
    y = torch.randn_like(z)
    found = torch.autograd.grad(value, (z, *model.parameters()), y, allow_unused=True)
    torch.testing.assert_close(found[0], *torch.autograd.grad(plain, z, y), rtol=1e-4, atol=1e-5)
    assert all(gradient is None for gradient in found[1:])


@pytest.fixture
def calls(monkeypatch):
    """How often which method of a packed product is called."""
    counts = Counter()

    def counted(name):
        original = getattr(PackedLinear, name)
        monkeypatch.setattr(
            PackedLinear, name, lambda self, *args, **kw: counts.update([name]) or original(self, *args, **kw)
        )

    for name in ("__call__", "plus"):
        counted(name)
    return counts


@needs_packing
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("name", ["func.pos_ff.ff1_net.bias", "func.dec_attn.o_net.bias"])
def test_a_bias_that_was_changed_in_between_changes_no_gradient(name, amp):
    """Autograd keeps no bias: a graph that is made anew on backward would be that of another map."""
    solves = {"f_thres": 30, "f_eps": 1e-6, "b_thres": 40, "b_eps": 1e-6, "solver": "broyden", "amp": amp}
    gradients = []
    for change in (0.0, 1.0):
        torch.manual_seed(0)
        model = SolvedLM(**TINY, **solves)
        loss = model(*batch()).nll.mean()
        with torch.no_grad():
            bias = model.get_parameter(name)
            bias.add_(change * torch.linspace(-1, 1, len(bias)))  # what is the same everywhere a norm takes out
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
