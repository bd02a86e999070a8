"""The DEQ-Transformer against brute force: its cell, its gradients, its memory, what its positions see."""

import pytest
import torch
from tiny_transformer import TINY, batch, tiny

from models.transformers.attention import Positions, visibility
from modules.optimizations import NormalizableLinear


@pytest.mark.parametrize(
    ("options", "n_layer"),
    [
        ({}, None),
        ({"wnorm": True, "cutoffs": (10, 20), "div_val": 2}, None),
        ({"wnorm": True, "d_embed": 6}, None),
        ({"pre_lnorm": True}, 2),  # f(z) - z has no term in z itself: without training it rarely has an equilibrium
        ({"pre_lnorm": True, "outer_norm": True}, None),
        ({"local_size": 2, "tied": False}, 2),
    ],
)
def test_gradients_agree_with_finite_differences(options, n_layer):
    model = tiny(**options, f_thres=300, b_thres=300, f_eps=1e-13, b_eps=1e-13, solver="broyden")
    tokens, targets = batch(length=3, rows=2)
    with torch.no_grad():
        memory = model(tokens, targets, n_layer=n_layer).memory
    loss = model(tokens, targets, memory, n_layer=n_layer).nll.mean()
    loss.backward()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        change = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                change.append(model(tokens, targets, memory, n_layer=n_layer).nll.mean().item())
                parameter -= sign * 1e-5 * direction
        slope = (change[0] - change[1]) / 2e-5
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def brute_force_cell(model, z, memory, u, positions):
    """f by loops over sequences, heads, queries and keys."""
    attention, feed_forward = model.func.dec_attn, model.func.pos_ff
    pre, horizon = model.config.pre_lnorm, model.config.horizon
    n_head, d_head = attention.n_head, attention.d_head

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    n_memory, n_query = memory.shape[1], z.shape[1]
    states = torch.cat([memory, z], dim=1)
    qkv = (norm(states) if pre else states) @ attention.qkv_net.matrix().t() + u
    r = (positions @ attention.r_net.matrix().t()).unflatten(1, (n_head, d_head))
    heads = torch.zeros_like(z)
    for b in range(len(z)):
        q, k, v = (part.unflatten(1, (n_head, d_head)) for part in qkv[b].chunk(3, dim=1))
        for h in range(n_head):
            for i in range(n_query):
                scores = []
                keys = [j for j in range(n_memory + i + 1) if horizon == 0 or j > i + n_memory - horizon]
                for j in keys:
                    distance = n_memory + i - j
                    content = (q[n_memory + i, h] + attention.r_w_bias[h]) @ k[j, h]
                    position = (q[n_memory + i, h] + attention.r_r_bias[h]) @ r[len(r) - 1 - distance, h]
                    scores.append((content + position) / d_head**0.5)
                weights = torch.stack(scores).softmax(0)
                heads[b, i, h * d_head : (h + 1) * d_head] = sum(
                    weight * v[j, h] for weight, j in zip(weights, keys, strict=True)
                )
    y = z + heads @ attention.o_net.matrix().t() + attention.o_net.bias
    y = y if pre else norm(y)
    out = y + feed_forward.ff2_net(feed_forward.ff1_net(norm(y) if pre else y).relu())
    return out if pre and not model.config.outer_norm else norm(out)


@pytest.mark.parametrize(
    "options",
    [{}, {"pre_lnorm": True}, {"pre_lnorm": True, "outer_norm": True}, {"local_size": 3}, {"wnorm": True}],
)
@pytest.mark.parametrize("n_memory", [0, 1, 5])
def test_cell_is_its_definition(options, n_memory):
    model = tiny(**options)
    generator = torch.Generator().manual_seed(5)
    n_batch, n_query, d = 2, 4, model.config.d_model
    z, memory, u = (
        torch.randn(n_batch, length, width, generator=generator, dtype=torch.float64)
        for length, width in ((n_query, d), (n_memory, d), (n_memory + n_query, 3 * d))
    )
    positions = Positions(
        model.pos_emb(n_memory + n_query), visibility(n_query, n_memory, model.config.horizon, memory)
    )
    with torch.no_grad():
        found = model.func(z, model.func.context(memory, u, positions))
        expected = brute_force_cell(model, z, memory, u, positions.embedding)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_weights_masks_and_positions_are_computed_once_per_solve(monkeypatch):
    model = tiny(wnorm=True, dropout=0.3, dropatt=0.2, f_thres=12, b_thres=12, f_eps=0, b_eps=0).train()
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
    assert calls["f"] > 12
    assert calls["matrix"] == 5
    assert calls["positions"] == 1
    assert (
        calls["draws"] == 7
    )  # embedding, positions, output; attention weights and output; feed-forward inner and output


def test_memory_keeps_the_last_positions():
    model = tiny(mem_len=8, f_thres=3).eval()
    seen_z, seen_u, memory = [], [], None
    with torch.no_grad():
        for seed in range(3):
            tokens, targets = batch(length=5, seed=seed)
            memory = model(tokens, targets, memory).memory
            seen_z.append(memory.z[:, -5:])
            seen_u.append(memory.u[:, -5:])
            length = min(8, 5 * (seed + 1))
            assert torch.equal(memory.z, torch.cat(seen_z, dim=1)[:, -length:])
            assert torch.equal(memory.u, torch.cat(seen_u, dim=1)[:, -length:])


def test_no_memory_when_its_length_is_zero():
    model = tiny(mem_len=0, f_thres=3)
    output = model(*batch())
    assert output.memory.z.shape == (3, 0, 8)
    again = model(*batch(), output.memory)
    assert torch.equal(again.nll, output.nll)


def test_segments_with_full_memory_are_one_long_sequence():
    """With one application from 0 the memory's states are known: two segments equal one of their joint length."""
    model = tiny(mem_len=100).eval()
    tokens, targets = batch(length=10)
    with torch.no_grad():
        whole = model(tokens, targets, n_layer=1).nll
        first = model(tokens[:4], targets[:4], n_layer=1)
        # the memory of one application holds f(0), the whole sequence's keys hold 0
        memory = first.memory._replace(z=torch.zeros_like(first.memory.z))
        second = model(tokens[4:], targets[4:], memory, n_layer=1)
    torch.testing.assert_close(torch.cat([first.nll, second.nll]), whole, rtol=1e-10, atol=1e-10)


def test_the_future_is_not_seen():
    model = tiny(f_thres=60, f_eps=1e-12, solver="broyden").eval()
    tokens, targets = batch(length=8)
    changed = tokens.clone()
    changed[5:] = (changed[5:] + 1) % TINY["n_token"]
    with torch.no_grad():
        nll, other = model(tokens, targets).nll, model(changed, targets).nll
    torch.testing.assert_close(nll[:5], other[:5], rtol=1e-8, atol=1e-8)
    assert not torch.allclose(nll[5:], other[5:])


def keys_that_matter(model, query, length=8):
    """Positions of one segment on whose token the query's nll depends, in one application of the cell."""
    tokens, targets = batch(length=length, rows=1)
    with torch.no_grad():
        reference = model(tokens, targets, n_layer=1).nll[query]
        matter = []
        for position in range(length):
            changed = tokens.clone()
            changed[position] = (changed[position] + 1) % TINY["n_token"]
            if not torch.equal(model(changed, targets, n_layer=1).nll[query], reference):
                matter.append(position)
    return matter


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"local_size": 3}, [4, 5, 6]),
        ({"same_length": True, "mem_len": 4}, [3, 4, 5, 6]),
        ({"same_length": True, "mem_len": 4, "local_size": 2}, [5, 6]),
    ],
)
def test_horizons(options, expected):
    assert keys_that_matter(tiny(**options).eval(), query=6) == expected
