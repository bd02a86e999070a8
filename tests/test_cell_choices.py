"""What else the cell may be made of, where its input may enter, and the layers around the equilibrium."""

import copy

import pytest
import torch
from solved_model import SolvedLM
from test_protocol import tensors
from tiny_run import COMMAND, MODEL

from evaluation.trained_model import make_model
from models.protocol import CellMap
from models.transformers.attention import Positions, visibility
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from models.transformers.weights import ShownSettings
from modules.optimizations import NormalizableLinear
from modules.report import Termination

TINY = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 8, "mem_len": 5}
TIGHT = {"solver": "broyden", "f_thres": 200, "b_thres": 200, "f_eps": 1e-12, "b_eps": 1e-12}
TORCHDEQS = {"pre_lnorm": True, "norm_affine": True, "heads_norm": True, "cell_layers": 2}
BOUNDED = {"pre_lnorm": True, "norm_affine": True, "outer_norm": True}
CHOICES = [
    {"inject": "residual"},
    {"inject": "both", "norm_affine": True},
    {"heads_norm": True, "norm_affine": True, "wnorm": True},
    {"inject": "both", "cell_layers": 3},
    {"inject": "residual", "cell_layers": 2, **BOUNDED},
    {"layers_before": 2, "layers_after": 1},
    {"layers_after": 1, "inject": "residual", **BOUNDED},
    {"inject": "both", "inject_norm": True, "feedback": 0.3},
    {"inject": "residual", "inject_norm": True, "feedback": 0.3, "cell_layers": 2, **BOUNDED},
]


def tiny(std: float = 0.3, **options) -> SolvedLM:
    torch.manual_seed(0)
    model = SolvedLM(**(TINY | options)).double()
    for name, parameter in model.named_parameters():
        is_scale = name.endswith("norm.weight")
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.1 if is_scale else std)
    return model


def batch(length: int = 6, rows: int = 3, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.randint(30, (length + 1, rows), generator=torch.Generator().manual_seed(seed))
    return stream[:-1], stream[1:]


def loss(model: SolvedLM, segment, memory, n_layer: int | None) -> torch.Tensor:
    return model(*segment, memory, n_layer=n_layer).nll.mean()


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


def parts_of(model: SolvedLM, n_memory: int = 3, n_query: int = 4):
    """A state, a memory, an injection and positions, all random."""
    generator = torch.Generator().manual_seed(5)
    widths = ((n_query, 8), (n_memory, 8), (n_memory + n_query, model.func.d_injection))
    z, memory, u = (torch.randn(2, length, width, generator=generator, dtype=torch.float64) for length, width in widths)
    return z, memory, u, Positions(model.pos_emb(n_memory + n_query), visibility(n_query, n_memory, 0, z))


def applied(cell, z, memory, u, positions) -> torch.Tensor:
    return cell(z, cell.context(memory, u, positions))


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


@torch.no_grad()
@pytest.mark.parametrize("options", CHOICES)
@pytest.mark.parametrize("z_init", ["injection", "previous"])
def test_a_solve_ends_at_the_same_equilibrium_wherever_it_starts(options, z_init):
    segments = [batch(seed=seed) for seed in (1, 2)]
    memory = tiny(**options, **TIGHT)(*segments[0]).memory
    (z, _), (other, start) = (
        (output.memory.z, model.problem(segments[1][0], memory).z0)
        for model in (tiny(**options, **TIGHT, z_init=name) for name in ("zero", z_init))
        for output in [model(*segments[1], memory)]
    )
    assert float(start.norm()) > 0.1
    torch.testing.assert_close(z, other, rtol=0, atol=1e-9)


@torch.no_grad()
def test_states_before_that_resemble_the_next_ones_save_steps():
    """In a text of one word over and over they nearly are the next ones."""
    tokens = torch.full((5, 2), 7)
    steps = {}
    for name in ("zero", "previous"):
        model, memory = tiny(z_init=name, solver="fixed_point", f_thres=200, f_eps=1e-4), None
        for _ in range(4):
            output = model(tokens, tokens, memory)
            memory = output.memory
        assert output.solve.forward.termination is Termination.CONVERGED
        steps[name] = output.solve.forward.n_steps
    assert steps["previous"] < steps["zero"] / 2


@torch.no_grad()
def test_starts_are_what_they_are_called():
    segment, longer = batch(length=3), batch(length=8)
    memory = tiny(**TIGHT)(*longer).memory  # of 5 positions
    zero, injection, previous = (tiny(z_init=name) for name in ("zero", "injection", "previous"))
    assert not zero.problem(segment[0], memory).z0.any()
    u = tiny(**TIGHT)(*segment, memory).memory.u[:, -3:]
    assert torch.equal(injection.problem(segment[0], memory).z0, u[..., -8:])
    assert torch.equal(previous.problem(segment[0], memory).z0, memory.z[:, -3:])
    late = previous.problem(longer[0], memory).z0
    assert torch.equal(late[:, 3:], memory.z)
    assert not late[:, :3].any()
    assert not previous.problem(segment[0], None).z0.any()


@torch.no_grad()
def test_the_memory_of_the_layers_is_what_they_read():
    model = tiny(layers_before=1, layers_after=1, mem_len=8, f_thres=5).eval()
    tokens, targets = batch(length=5)
    output = model(tokens, targets)
    embedded, after = output.memory.layers.split(8, dim=2)
    torch.testing.assert_close(embedded, model.word_emb(tokens.t()))
    assert torch.equal(after, output.memory.z)
    further = model(*batch(length=5, seed=2), output.memory).memory
    assert [tuple(part.shape) for part in further] == [(3, 8, 8), (3, 8, 24), (3, 8, 16)]
    for new, old in zip(further, output.memory, strict=True):
        assert torch.equal(new[:, :3], old[:, -3:])


@torch.no_grad()
def test_layers_are_those_of_transformer_xl():
    """In segments with a long memory they come to what they do at once, in their states and beyond."""
    model = tiny(layers_before=2, layers_after=2, mem_len=100, **TIGHT).eval()
    tokens, targets = batch(length=9)
    whole = model(tokens, targets)
    memory, parts = None, []
    for start in (0, 4, 5):
        part = slice(start, {0: 4, 4: 5, 5: 9}[start])
        output = model(tokens[part], targets[part], memory)
        memory = output.memory
        parts.append(output.nll)
    torch.testing.assert_close(torch.cat(parts), whole.nll, rtol=0, atol=1e-9)
    torch.testing.assert_close(memory.layers, whole.memory.layers, rtol=0, atol=1e-9)


def test_learned_norms_and_what_is_added_to_the_state_begin_plainly():
    flags = "--pre_lnorm --outer_norm --norm_affine --heads_norm --inject both --cell_layers 2 --layers_after 1"
    settings = COMMAND.parse(f"{MODEL} {flags}".split())
    model = make_model(COMMAND, settings, 25, torch.device("cpu"))
    norms = {name: value for name, value in model.named_parameters() if "norm." in name}
    assert len(norms) == 2 * (3 * 3 + 1)
    for name, value in norms.items():
        assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
    assert torch.equal(model.inject_conv.weight[-8:, :, 0], torch.eye(8))
    assert 0 < model.inject_conv.weight[:24].abs().max().item() < 0.1
    f, z = model.problem(batch()[0] % 25, None)
    assert f(z).norm().item() == pytest.approx(z.numel() ** 0.5, rel=0.01)


@pytest.mark.parametrize("options", [{}, TORCHDEQS, BOUNDED, {"inject": "residual"}, {"inject": "both"}, *CHOICES])
def test_shapes_show_the_settings(options):
    config = DEQTransformerConfig(**(TINY | options))
    with torch.device("meta"):
        state = DEQTransformerLM(config).state_dict()
    shown = vars(ShownSettings.of(state))
    unseen = () if config.norm_affine else ("heads_norm", "outer_norm")
    for name in unseen:
        assert shown.pop(name) is None
    assert shown.pop("has_feedback") == (config.feedback is not None)
    assert shown == {name: getattr(config, name) for name in shown}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inject": "nowhere"}, "`inject` is 'nowhere': choose one of attention, residual, both"),
        ({"z_init": "one"}, "`z_init` is 'one': choose one of zero, injection, previous"),
        ({"z_init": "previous", "mem_len": 0}, "`z_init` previous needs a memory, but `mem_len` is 0"),
        ({"cell_layers": 0}, "`cell_layers` is 0: pass 1 or more"),
        ({"layers_before": -1}, "`layers_before` is -1: pass 0 or more"),
        ({"layers_after": 1.5}, "`layers_after` is 1.5, a float: pass a whole number"),
    ],
)
def test_settings_that_make_no_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DEQTransformerConfig(**(TINY | options))
