"""Muon for matrices and Adam for the rest, as one optimizer."""

import copy

import pytest
import torch
from torch import nn

from utils.muon import Muon
from utils.optimizers import set_rate


class Mixed(nn.Module):
    """A matrix, a convolution of kernel 1 and one of kernel 2, vectors, an embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 6)
        self.linear = nn.Linear(6, 8)
        self.pointwise = nn.Conv1d(8, 5, kernel_size=1)
        self.wide = nn.Conv1d(5, 4, kernel_size=2)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.unused = nn.Parameter(torch.ones(3, 3))

    def forward(self, tokens):
        x = self.pointwise(self.linear(self.embedding(tokens)).transpose(1, 2))
        return self.scale * self.wide(x).tanh()[:, :, None]

    def muon(self, **options) -> Muon:
        return Muon(self.parameters(), lr=0.02, vectors=self.embedding.parameters(), **options)


def train(model, optimizer, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randint(7, (3, 9), generator=generator)).square().mean().backward()
        optimizer.step()


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_parts_are_torchs_own_optimizers(weight_decay):
    model = Mixed()
    theirs = copy.deepcopy(model)
    train(model, model.muon(weight_decay=weight_decay), 5)

    matrices = [theirs.linear.weight, theirs.pointwise.weight, theirs.wide.weight]
    flat = [nn.Parameter(weight.detach().reshape(len(weight), -1)) for weight in matrices]
    muon = torch.optim.Muon(flat, lr=0.02, weight_decay=weight_decay)
    rest = [parameter for parameter in theirs.parameters() if all(parameter is not matrix for matrix in matrices)]
    adam = torch.optim.AdamW(rest, lr=0.002, betas=(0.9, 0.95), weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        theirs.zero_grad()
        theirs(torch.randint(7, (3, 9), generator=generator)).square().mean().backward()
        for matrix, alias in zip(matrices, flat, strict=True):
            alias.grad = matrix.grad.reshape(alias.shape)
        muon.step()
        adam.step()
        with torch.no_grad():
            for matrix, alias in zip(matrices, flat, strict=True):
                matrix.copy_(alias.view_as(matrix))
    assert same(model, theirs)
    assert torch.equal(model.unused, torch.ones(3, 3)), "what has no gradient stays, weight decay or not"


def test_a_matrix_has_two_dimensions_above_one():
    model = Mixed()
    matrices, others = model.muon().param_groups
    assert {parameter.shape for parameter in matrices["params"]} == {(8, 6), (5, 8, 1), (4, 5, 2), (3, 3)}
    assert {parameter.shape for parameter in others["params"]} == {(7, 6), (8,), (5,), (4,), (4, 1, 1)}
    assert len(Muon(model.parameters()).param_groups[0]["params"]) == 5, "without a word the embedding is one, too"
    assert len(Muon([model.scale]).param_groups) == len(Muon([model.unused]).param_groups) == 1


def test_a_run_goes_on_to_the_bit_where_its_state_was_saved(tmp_path):
    model = Mixed()
    optimizer = model.muon()
    train(model, optimizer, 3)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "saved")

    other = Mixed()
    resumed = other.muon()
    weights, state = torch.load(tmp_path / "saved", weights_only=True)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    afresh = copy.deepcopy(other)
    for net, its in ((model, optimizer), (other, resumed), (afresh, afresh.muon())):
        train(net, its, 3, seed=2)
    assert same(model, other)
    assert not same(model, afresh), "the state matters"


def test_one_number_sets_both_rates():
    model = Mixed()
    optimizer = model.muon(adam_ratio=0.5)
    before = copy.deepcopy(model)
    set_rate(optimizer, 0.0)
    train(model, optimizer, 1)
    assert same(model, before)
    set_rate(optimizer, 0.25)
    train(model, optimizer, 1)
    moved = (model.linear.bias - before.linear.bias).abs().max()
    assert 0.05 < moved < 0.25, "Adam's second step, of near the rate 0.125"
    assert torch.linalg.matrix_norm(model.linear.weight - before.linear.weight, 2) > 0.15


def test_the_closures_value_comes_back():
    model = Mixed()
    optimizer = model.muon()

    def closure():
        optimizer.zero_grad()
        loss = model(torch.zeros(1, 2, dtype=torch.int64)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > optimizer.step(closure) > 0


@pytest.mark.parametrize(
    "bad", [{"lr": -1.0}, {"weight_decay": -1.0}, {"momentum": -1.0}, {"adam_ratio": -1.0}, {"betas": (1.0, 0.9)}]
)
def test_numbers_out_of_range_are_told(bad):
    with pytest.raises(ValueError, match=r"-1\.0|1\.0"):
        Muon(Mixed().parameters(), **bad)


def test_no_parameters_are_told():
    with pytest.raises(ValueError, match="empty parameter list"):
        Muon([])
