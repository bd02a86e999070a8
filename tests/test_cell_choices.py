"""What else the cell may be made of: where its input may enter, several pairs, norms that learn."""

import copy

import pytest
import torch
from test_protocol import tensors
from tiny_cells import BOUNDED, CHOICES, TIGHT, TORCHDEQS, applied, loss, parts_of, tiny
from tiny_transformer import batch

from models.protocol import CellMap
from modules.optimizations import NormalizableLinear
from modules.report import Termination


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "n_layer"),
    [
        *((options, None) for options in CHOICES[1::2]),
        *((options, 2) for options in CHOICES[::2]),
        (TORCHDEQS, 3),
        (TORCHDEQS | {"inject": "both", "layers_before": 1}, 2),
        ({"z_init": "injection", "inject": "residual"}, 2),
        ({"z_init": "injection"}, 1),
        ({"z_init": "previous"}, 2),
    ],
)
def test_gradients_agree_with_finite_differences(options, n_layer):
    model = tiny(0.2, **options, **TIGHT)  # with larger weights 1e-5 may lead across a kink of the relu
    segment = batch(length=3, rows=2)
    with torch.no_grad():
        output = model(*segment, n_layer=n_layer)
    memory = output.memory
    if output.solve is not None:
        assert output.solve.forward.termination is Termination.CONVERGED
    loss(model, segment, memory, n_layer).backward()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        change = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                change.append(loss(model, segment, memory, n_layer).item())
                parameter -= sign * 1e-5 * direction
        slope = (change[0] - change[1]) / 2e-5
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, BOUNDED])
def test_what_is_added_to_the_state_is_added_to_the_memorys_too(options):
    model, plain = tiny(inject="both", **options), tiny(**options)
    plain.func.load_state_dict(model.func.state_dict())
    z, memory, u, positions = parts_of(model)
    added = u[..., -8:]
    wanted = applied(plain.func, z + added[:, 3:], memory + added[:, :3], u[..., :24], positions)
    torch.testing.assert_close(applied(model.func, z, memory, u, positions), wanted, rtol=0, atol=1e-13)
    alone = tiny(inject="residual", **options)
    alone.func.load_state_dict(model.func.state_dict())
    wanted = applied(plain.func, z + added[:, 3:], memory + added[:, :3], torch.zeros_like(u[..., :24]), positions)
    torch.testing.assert_close(applied(alone.func, z, memory, added, positions), wanted, rtol=0, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize("inject", ["attention", "residual", "both"])
def test_a_cell_of_several_pairs_applies_them_in_turn(inject):
    """The memory is the state's for all of them, and what is added to the state is added before the first alone."""
    model = tiny(inject=inject, cell_layers=3, **BOUNDED)
    z, memory, u, positions = parts_of(model)
    first, *others = model.func.layers
    assert [layer.outer_norm is not None for layer in model.func.layers] == [False, False, True]
    wanted = applied(first, z, memory, u, positions)
    for layer in others:
        assert layer.inject == (None if inject == "residual" else "attention")
        wanted = applied(layer, wanted, memory, u[..., :24] if layer.inject else None, positions)
    assert torch.equal(applied(model.func, z, memory, u, positions), wanted)


@torch.no_grad()
def test_the_norm_of_the_heads_stands_before_their_projection():
    model = tiny(heads_norm=True, norm_affine=True)
    z, memory, u, positions = parts_of(model)
    attention, heads = model.func.dec_attn, {}
    with_heads = copy.deepcopy(attention)
    with_heads.heads_norm = None
    with_heads.o_net.weight.copy_(torch.eye(8, dtype=torch.float64).unsqueeze(2))
    with_heads.o_net.bias.zero_()
    heads = applied(with_heads, z, memory, u, positions)
    centred = heads - heads.mean(2, keepdim=True)
    scaled = centred / (heads.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    norm = attention.heads_norm
    wanted = attention.o_net(scaled * norm.weight + norm.bias)
    torch.testing.assert_close(applied(attention, z, memory, u, positions), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "matrices", "masks"),
    [
        ({"cell_layers": 2}, 10, 3 + 2 * 4),
        ({"inject": "both"}, 5, 3 + 4),
        ({"layers_before": 1, "layers_after": 2}, 20, 3 + 4 * 4),
    ],
)
def test_weights_masks_and_positions_are_computed_once_per_solve(options, matrices, masks, monkeypatch):
    model = tiny(wnorm=True, dropout=0.3, dropatt=0.2, f_thres=12, b_thres=12, f_eps=0, b_eps=0, **options).train()
    calls = {"matrix": 0, "positions": 0, "draws": 0, "f": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(NormalizableLinear, "matrix", counted("matrix", NormalizableLinear.matrix))
    monkeypatch.setattr(model.pos_emb, "forward", counted("positions", model.pos_emb.forward))
    monkeypatch.setattr(torch.Tensor, "bernoulli_", counted("draws", torch.Tensor.bernoulli_))
    monkeypatch.setattr(model.func, "forward", counted("f", model.func.forward))
    model(*batch()).nll.mean().backward()
    assert calls.pop("f") > 12
    assert calls == {"matrix": matrices, "positions": 1, "draws": masks}


@torch.no_grad()
@pytest.mark.parametrize("options", [*CHOICES, {"z_init": "previous"}, {"z_init": "injection", "inject": "both"}])
def test_a_sequence_does_not_know_of_its_batch_mates(options):
    """Nor of how well it converges beside them, as each has its own solve; and the memory has its rows first."""
    depth = {"solver": "broyden", "stop_scope": "sequence", "f_eps": 1e-4, "f_thres": 20}
    model = tiny(**options, **depth).eval()
    segments = [batch(seed=seed) for seed in (1, 2)]
    memory = model(*segments[0]).memory
    together = model(*segments[1], memory)
    for row in range(3):
        alone = model(*(tokens[:, [row]] for tokens in segments[1]), type(memory)(*(part[[row]] for part in memory)))
        torch.testing.assert_close(alone.nll[:, 0], together.nll[:, row], rtol=0, atol=1e-10)
        for part, whole in zip(alone.memory, together.memory, strict=True):
            torch.testing.assert_close(part[0], whole[row], rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"dropout": 0.3, "dropatt": 0.3}, {"dropout": 0.3, "inject": "both"}])
def test_the_context_of_several_pairs(options):
    model = tiny(cell_layers=2, **options, **TIGHT).train()
    f, z = model.problem(batch()[0], model(*batch(seed=4), n_layer=1).memory)
    z = torch.randn_like(z)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(f.select(rows)(z[rows]), f(z)[rows], rtol=1e-12, atol=1e-12)
    single = CellMap(f.cell, f.context.to(torch.float32))(z.float())
    torch.testing.assert_close(single, f(z).float(), rtol=1e-3, atol=1e-4)
    g, _ = model.problem(batch(seed=7)[0], model(*batch(seed=4), n_layer=1).memory)
    wanted = g(z)
    places = [part.data_ptr() for layer in f.context.layers for part in tensors(layer)]
    f.context.copy_(g.context)
    assert torch.equal(f(z), wanted)
    assert [part.data_ptr() for layer in f.context.layers for part in tensors(layer)] == places


@torch.no_grad()
def test_several_pairs_are_packed():
    model = tiny(cell_layers=2).to(torch.float32)
    f, z = model.problem(batch()[0], None)
    packed = f.pack(z)
    assert all(layer.feed_forward.packed is not None for layer in packed.context.layers)
    z = torch.randn_like(z)
    torch.testing.assert_close(packed(z), f(z), rtol=1e-4, atol=1e-5)
