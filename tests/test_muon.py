"""Muon for matrices and Adam for the rest, as one optimizer."""

import copy

import pytest
import torch
from torch import nn

from utils.matrix_muon import MatrixMuon, orthogonalised
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
    muon = MatrixMuon(flat, lr=0.02, weight_decay=weight_decay)
    rest = [parameter for parameter in theirs.parameters() if all(parameter is not matrix for matrix in matrices)]
    groups = [
        {"params": [theirs.embedding.weight], "weight_decay": weight_decay},
        {"params": [parameter for parameter in rest if parameter is not theirs.embedding.weight], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.002, betas=(0.9, 0.95))
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


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3}, {"nesterov": False}, {"momentum": 0.5}], ids=str)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4)], ids=str)
def test_a_matrix_on_a_cpu_goes_torchs_way_without_its_rounding(monkeypatch, shape, options):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    mine = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    theirs = nn.Parameter(mine.detach().clone())
    optimizers = MatrixMuon([mine], lr=0.1, **options), torch.optim.Muon([theirs], lr=0.1, **options)
    for _ in range(3):
        for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
            parameter.grad = parameter.detach().sin()
            optimizer.step()
        torch.testing.assert_close(mine, theirs)
    assert optimizers[0].state_dict().keys() == optimizers[1].state_dict().keys()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_orthogonalised_keeps_singular_vectors_and_evens_the_values(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    group = torch.optim.Muon([nn.Parameter(matrix)]).param_groups[0]
    result = orthogonalised(matrix, group["ns_coefficients"], group["ns_steps"], group["eps"])
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ result @ right.T
    torch.testing.assert_close(values, torch.diag(values.diagonal()))
    assert ((values.diagonal() > 0.6) & (values.diagonal() < 1.3)).all()


def test_a_matrix_has_two_dimensions_above_one():
    model = Mixed()
    matrices, decayed, others = model.muon().param_groups
    assert {parameter.shape for parameter in matrices["params"]} == {(8, 6), (5, 8, 1), (4, 5, 2), (3, 3)}
    assert {parameter.shape for parameter in decayed["params"]} == {(7, 6)}
    assert {parameter.shape for parameter in others["params"]} == {(8,), (5,), (4,), (4, 1, 1)}
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


def test_weight_decay_spares_what_it_is_told_to():
    model = Mixed()
    before = copy.deepcopy(model)
    optimizer = Muon(
        model.parameters(), 0.5, weight_decay=0.5, vectors=model.embedding.parameters(), spared=[model.unused]
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shares = {
        name: float((parameter / before.get_parameter(name)).detach().mean())
        for name, parameter in model.named_parameters()
    }
    decayed = {name: share for name, share in shares.items() if share != 1}
    assert decayed == {
        "embedding.weight": pytest.approx(1 - 0.05 * 0.5),
        **dict.fromkeys(("linear.weight", "pointwise.weight", "wide.weight"), pytest.approx(1 - 0.5 * 0.5)),
    }


def test_its_parts_are_made_once(monkeypatch):
    made = []
    for kind in (torch.optim.Muon, torch.optim.AdamW):
        monkeypatch.setattr(kind, "__init__", _counted(kind.__init__, made))
    model = Mixed()
    optimizer = model.muon()
    n_parts = len(made)
    train(model, optimizer, 3)
    assert len(made) == n_parts == 3
    assert model.wide.weight.grad is not None
    model.zero_grad()
    assert all(its.grad is None for part in optimizer.parts for its in part.given), "nothing else keeps gradients alive"


def _counted(function, calls):
    return lambda *args, **options: (calls.append(function), function(*args, **options))[1]


def test_a_scheduler_of_torch_and_a_copy(tmp_path):
    model = Mixed()
    optimizer = model.muon()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.0)
    train(model, optimizer, 2)
    net, its = copy.deepcopy((model, optimizer))
    for one, of_it in ((model, optimizer), (net, its)):
        train(one, of_it, 2, seed=4)
    assert same(model, net)
    schedule.step()
    train(model, optimizer, 1)
    assert same(model, net), "at the rate 0"


def test_parameters_may_be_replaced_by_others_of_their_form():
    """As `module.to` does."""
    model, other = Mixed(), Mixed()
    mine, theirs = model.muon(), other.muon()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    for net, its in ((model, mine), (other, theirs)):
        train(net, its, 2)
    assert same(model, other)


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
