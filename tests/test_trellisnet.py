"""The DEQ-TrellisNet's cell and regularisation against loops over positions and taps."""

import pytest
import torch
from tiny_trellisnet import CONFIG, B, L, V, build, segment

from models.protocol import CellMap
from models.trellisnets.cell import TrellisCell
from models.trellisnets.convolution import CausalConvolution
from modules.depth import Applications
from modules.deq import DEQModule

DROPOUTS = ("dropout", "dropouti", "dropouth", "wdrop", "emb_dropout")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def convolved(conv, x, before):
    """The definition, tap by tap."""
    if conv.wnorm:
        weight = conv.weight_v / conv.weight_v.flatten(1).norm(dim=1)[:, None, None] * conv.weight_g
    else:
        weight = conv.weight
    n_taps, out = weight.shape[2], torch.zeros(*x.shape[:2], len(weight), dtype=x.dtype)
    for t in range(x.shape[1]):
        for j in range(n_taps):
            place = t - (n_taps - 1 - j) * conv.dilation
            out[:, t] += (x[:, place] if place >= 0 else before[:, 0]) @ weight[:, :, j].t()
    return out + conv.bias


def test_a_model_for_reading_sees_the_word_before_a_segment():
    """Training and scoring do not: their injection's first tap sees zeros there, as published."""
    model = build(wnorm=False).eval()
    with torch.no_grad():
        for weight in (model.trellisnet.func.full_conv.weight, model.trellisnet.inject_conv.weight):
            weight *= 0.5
    reader, depth = model.for_reading(), DEQModule(solver="broyden", f_thres=200, f_eps=1e-13)
    tokens, targets = segment(2 * L)
    whole = reader(tokens, targets, None, depth).nll
    first = reader(tokens[:L], targets[:L], None, depth)
    second = reader(tokens[L:], targets[L:], first.memory, depth)
    torch.testing.assert_close(torch.cat([first.nll, second.nll]), whole, rtol=1e-9, atol=1e-9)
    as_published = model(tokens[L:], targets[L:], model(tokens[:L], targets[:L], None, depth).memory, depth).nll
    assert (as_published - whole[L:]).abs()[0].min() > 1e-3


@pytest.mark.parametrize("wnorm", [False, True])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (2, 3), (3, 2), (4, 9)])
def test_convolution_is_the_sum_over_taps(kernel, dilation, wnorm):
    conv = CausalConvolution(5, 8, kernel=kernel, dilation=dilation, wnorm=wnorm).double()
    conv.draw_small()
    x, before = torch.randn(B, L, 5).double(), torch.randn(B, 1, 5).double()
    found = conv.windows(x, before) @ conv.matrix().t() + conv.bias
    torch.testing.assert_close(found, convolved(conv, x, before))
    torch.testing.assert_close(conv(x), convolved(conv, x, torch.zeros_like(before)))


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (3, 2)])
def test_cell_is_its_equations(kernel, dilation):
    h = 5
    cell = TrellisCell(h, kernel=kernel, dilation=dilation, dropouth=0.0, wdrop=0.0, wnorm=True).double()
    z, memory, u = (torch.randn(B, n, c).double() for n, c in ((L, 2 * h), (1, 2 * h), (L, 4 * h)))
    gates = convolved(cell.full_conv, z[:, :, :h], memory[:, :, :h]) + u
    wanted = torch.empty_like(z)
    for t in range(L):
        i, o, g, f = gates[:, t].split(h, dim=1)
        c = torch.sigmoid(f) * (z if t else memory)[:, t - 1 if t else 0, h:] + torch.sigmoid(i) * torch.tanh(g)
        wanted[:, t] = torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=1)
    torch.testing.assert_close(cell(z, cell.context(memory, u)), wanted)


def test_equilibrium_of_a_cell_without_its_last_tap_is_a_recurrent_network():
    """Where no position sees its own state the equilibrium is what one pass from the first to the last gives."""
    model = build(wnorm=False).eval()
    with torch.no_grad():
        model.trellisnet.func.full_conv.weight[:, :, -1] = 0
    tokens, _ = segment()
    f, z0 = model.problem(tokens, None)
    z, passed = z0, z0
    for _ in range(L):
        z = f(z)
    for t in range(L):  # position by position
        passed = torch.cat([passed[:, :t], f(passed)[:, t : t + 1], passed[:, t + 1 :]], dim=1)
    torch.testing.assert_close(z, passed)
    solved, _ = DEQModule(solver="broyden", f_thres=60, f_eps=1e-12)(f, z0)
    torch.testing.assert_close(solved, passed)


def test_a_text_in_two_segments_is_the_text_in_one():
    """The memory holds all that the past means, where the injection's first tap is off: it does not cross segments."""
    model = build(wnorm=False, ksize=2).eval()
    with torch.no_grad():
        model.trellisnet.inject_conv.weight[:, :, 0] = 0
        for weight in (model.trellisnet.func.full_conv.weight, model.trellisnet.inject_conv.weight):
            weight *= 0.5
    depth = DEQModule(solver="broyden", f_thres=200, f_eps=1e-13)
    tokens, targets = segment(2 * L)
    whole = model(tokens, targets, None, depth).nll
    first = model(tokens[:L], targets[:L], None, depth)
    second = model(tokens[L:], targets[L:], first.memory, depth)
    torch.testing.assert_close(torch.cat([first.nll, second.nll]), whole, rtol=1e-9, atol=1e-9)


def test_no_position_sees_a_later_one():
    model = build().eval()
    tokens, _ = segment()
    states = model.hidden(tokens, None, Applications(4)).states
    for t in range(L):
        changed = tokens.clone()
        changed[t] = (changed[t] + 1) % V
        difference = (model.hidden(changed, None, Applications(4)).states - states).abs().amax(dim=(1, 2))
        assert not difference[:t].any()
        assert difference[t] > 0


@pytest.mark.parametrize("rate", DROPOUTS)
def test_each_dropout_acts_in_training_and_not_in_evaluation(rate):
    model = build(**{rate: 0.5})
    tokens, targets = segment()

    def losses(seed):
        torch.manual_seed(seed)
        return model(tokens, targets, None, Applications(3)).nll

    model.train()
    assert torch.equal(losses(1), losses(1))
    assert not torch.equal(losses(1), losses(2))
    model.eval()
    assert torch.equal(losses(1), losses(2))
    torch.testing.assert_close(losses(1), _without(model, rate)(tokens, targets, None, Applications(3)).nll)


def _without(model, rate):
    plain = build(**{rate: 0.0}).eval()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.mark.parametrize("rate", DROPOUTS)
def test_the_map_is_the_same_at_every_evaluation_of_a_solve(rate):
    model = build(**{rate: 0.5}).train()
    f, z0 = model.problem(segment()[0], None)
    z = torch.randn_like(z0)
    assert torch.equal(f(z), f(z))


def test_what_shares_a_mask():
    """Input, hidden part and output: a mask a sequence and channel, over all positions."""
    model = build(dropout=0.5, dropouth=0.5).train()
    tokens, _ = segment(length=40)
    dropped = model.hidden(tokens, None, Applications(2)).states == 0
    assert torch.equal(dropped.all(dim=0), dropped.any(dim=0))
    assert 0 < dropped[0].sum() < dropped[0].numel()
    mask = model.problem(tokens, None).f.context.hidden_mask
    assert mask.shape == (B, 1, CONFIG.width)
    assert set(mask.unique().tolist()) == {0.0, 2.0}


def test_words_are_dropped_whole_and_the_others_scaled():
    model = build(emb_dropout=0.5).train()
    tokens = torch.arange(V).repeat(2, 1)  # (B, L) with every word in both rows
    ratio = model._embedded(tokens) / model.encoder(tokens)
    assert torch.equal(ratio[0], ratio[1])
    assert all(len(row.unique()) == 1 for row in ratio[0].round(decimals=9))
    assert set(ratio[0, :, 0].round(decimals=9).tolist()) == {0.0, 2.0}


def test_dropconnect_acts_on_the_direction_of_all_taps_but_the_last():
    conv = CausalConvolution(50, 60, kernel=3, wnorm=True, wdrop=0.4).double().train()
    with torch.no_grad():
        conv.weight_g.uniform_(0.5, 2.0)
    weight = conv.matrix().unflatten(1, (3, 50))  # (C_out, k, C_in)
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), conv.weight_g.flatten())
    ratio = weight / conv.weight_v.transpose(1, 2)
    per_row = ratio[:, 2, :1]  # what normalisation makes of a row; its last tap is whole
    torch.testing.assert_close(ratio[:, 2], per_row.expand(-1, 50))
    recurrent = (ratio[:, :2].flatten(1) / per_row).round(decimals=6)
    assert set(recurrent.unique().tolist()) == {0.0, round(1 / 0.6, 6)}
    assert (recurrent == 0).double().mean() == pytest.approx(0.4, abs=0.03)


def test_packed_map_is_the_map():
    model = build().float().eval()
    f, z0 = model.problem(segment()[0], None)
    z = torch.randn_like(z0)
    with torch.no_grad():
        torch.testing.assert_close(f.pack(z0)(z), f(z), rtol=1e-5, atol=1e-6)


def test_map_of_some_sequences():
    f, z0 = build(dropouth=0.5).train().problem(segment()[0], None)
    assert isinstance(f, CellMap)
    z, rows = torch.randn_like(z0), torch.tensor([2, 0])
    torch.testing.assert_close(f.select(rows)(z[rows]), f(z)[rows])
