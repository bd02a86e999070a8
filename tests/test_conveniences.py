"""What a user of other libraries of equilibrium models looks for beside the layer itself."""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from modules import __all__ as public_names
from modules.anderson import Anderson
from modules.arguments import add_arguments, settings_from
from modules.deq import DEQModule
from modules.normalisation import normalise, plain
from modules.starts import mixed_start
from modules.trajectory import weighted_loss

ENGINE = Path(__file__).parent.parent / "DEQModel" / "modules"


# -- the loss over several states


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, [0.64, 0.8, 1]),
        ({"gamma": 0.5}, [0.25, 0.5, 1]),
        ({"weights": "linear", "gamma": 0.9}, [0.4, 0.7, 1]),
        ({"weights": "constant"}, [1, 1, 1]),
        ({"weights": [3.0, 0.0, 2.0]}, [3, 0, 2]),
        ({"weights": lambda n, k: n * 10 + k}, [30, 31, 32]),
    ],
)
def test_the_weights_of_a_loss(weights, expected):
    states = [torch.tensor(10.0**k, requires_grad=True) for k in range(3)]
    total = weighted_loss(lambda z: 2 * z, states, **weights)
    found = torch.autograd.grad(total, states)
    assert [grad.item() / 2 for grad in found] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": []}, "`states` is empty"),
        ({"weights": "cubic"}, "`weights` is 'cubic': choose one of exponential, linear, constant"),
        ({"weights": [1.0]}, "`weights` are 1 for 2 states"),
        ({"gamma": 0}, "`gamma` is 0"),
        ({"states": torch.ones(2)}, "`states` is a Tensor: pass a loss, and a list of states"),
    ],
)
def test_losses_that_cannot_be_weighted(arguments, message):
    with pytest.raises(ValueError, match=message):
        weighted_loss(**({"loss": torch.sum, "states": [torch.ones(1)] * 2} | arguments))


# -- starts


def test_mixed_starts():
    like = torch.empty(50, 40, dtype=torch.float64)
    start = mixed_start(like, zeros=0.3, generator=torch.Generator().manual_seed(0))
    assert start.dtype == like.dtype
    assert (start == 0).double().mean().item() == pytest.approx(0.3, abs=0.05)
    assert start[start != 0].std().item() == pytest.approx(1, abs=0.05)
    again = mixed_start(like, zeros=0.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start, again)
    a, b = mixed_start((like[:, :3], like))
    assert (a.shape, b.shape) == ((50, 3), (50, 40))
    with pytest.raises(ValueError, match="`like` has a int in place 0"):
        mixed_start((5, 8))
    with pytest.raises(ValueError, match="`zeros` is 2"):
        mixed_start(like, zeros=2)


# -- normalisation


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Conv1d(6, 6, 1), nn.Embedding(3, 6))


@pytest.mark.parametrize("how", ["weight", "spectral"])
def test_normalisation_is_put_on_and_taken_off(how):
    net = model()
    before = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    assert normalise(net, how) == ["0.weight", "2.weight"]
    net.eval()
    for layer, weight in zip((net[0], net[2]), before, strict=True):
        if how == "weight":
            torch.testing.assert_close(layer.weight, weight)
        else:
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.05)
    inside = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    assert plain(net) == ["0.weight", "2.weight"]
    assert {name for name, _ in net.named_parameters()} == {name for name, _ in model().named_parameters()}
    for layer, weight in zip((net[0], net[2]), inside, strict=True):
        torch.testing.assert_close(layer.weight, weight)
        assert layer.weight.requires_grad
    assert plain(net) == []


def test_transposed_convolutions_are_normalised_by_output_channel():
    layer = nn.ConvTranspose2d(3, 2, 3)
    normalise(layer, "weight")
    assert layer.parametrizations.weight.original0.shape == (1, 2, 1, 1)


def test_layers_can_be_left_out():
    assert normalise(nn.ModuleDict({"head": nn.Linear(2, 2), "x": nn.Linear(2, 2)}), "weight", without="head") == [
        "x.weight"
    ]
    net = nn.ModuleDict({"embedding_in": nn.Linear(2, 2), "cell": nn.Linear(2, 2)})
    assert normalise(net, "spectral", without=["embedding"], n_power_iterations=3) == ["cell.weight"]
    for arguments, message in [
        ((net, "spectral"), "cell has a parametrized weight already: call `plain` first"),
        ((nn.ReLU(), "weight"), "no linear or convolutional layer"),
        ((net, "layer"), "`how` is 'layer': choose one of weight, spectral"),
        ((nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)), "weight"), "1.weight has no shape yet"),
        ((sharing(), "weight"), "share a weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            normalise(*arguments)
    assert not parametrize.is_parametrized(net["embedding_in"]), "what is refused leaves the model as it was"


def sharing():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    return net


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, weight):
        self.calls.append(torch.is_grad_enabled())
        return 0.5 * weight


@pytest.mark.parametrize("grad", ["implicit", "phantom", "unroll", "reversible"])
def test_a_solve_computes_normalised_weights_once(grad):
    layer, counting = nn.Linear(4, 4), Counting()
    parametrize.register_parametrization(layer, "weight", counting)
    counting.calls.clear()
    x = torch.randn(2, 4)
    z, _ = DEQModule(grad=grad, f_thres=6)(lambda z: torch.tanh(layer(z) + x), torch.zeros(2, 4))
    z.sum().backward()
    iterated = grad in ("unroll", "reversible")  # once more to know that there are such weights
    assert counting.calls.count(True) == (2 if iterated else 1)
    assert counting.calls.count(False) == (0 if iterated else 1)
    assert layer.parametrizations.weight.original.grad.abs().sum() > 0


@pytest.mark.parametrize("grad", ["unroll", "reversible"])
def test_spectral_norms_are_recomputed_with_the_weights_that_were_used(grad):
    """In training mode each computation of such a weight moves it: the backward pass must not make another."""
    layer, x = nn.Linear(5, 5).double(), torch.randn(2, 5).double()
    normalise(layer, "spectral")
    deq = DEQModule(grad=grad, f_thres=4, f_eps=0)
    start = torch.zeros(2, 5).double()
    z, _ = deq(lambda z: torch.tanh(layer(z) + x), start)
    z.sum().backward()
    found = layer.parametrizations.weight.original.grad.clone()
    layer.eval()  # the power iteration's vectors stay as the forward pass left them
    layer.zero_grad()
    z_again, _ = deq(lambda z: torch.tanh(layer(z) + x), start)
    z_again.sum().backward()
    torch.testing.assert_close(z_again, z)
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, found)


# -- flags of another program


def test_flags_for_another_program():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    add_arguments(parser, prefix="deq_", f_thres=30, solver="anderson")
    dashed = argparse.ArgumentParser()
    add_arguments(dashed, prefix="deq-")
    assert DEQModule(**settings_from(dashed.parse_args([]), prefix="deq-")).settings == DEQModule().settings
    given = ["--deq_b_solver", "fixed_point", "--deq_f_eps", "1e-5", "--deq_grad", "phantom"]
    deq = DEQModule(**settings_from(parser.parse_args(given), prefix="deq_"))
    assert (deq.solver, deq.f_thres, deq.f_eps, deq.grad) == (Anderson(), 30, 1e-5, "phantom")
    assert deq.settings == DEQModule(**settings_from(parser.parse_args(given), prefix="deq_")).settings
    plain_parser = argparse.ArgumentParser()
    add_arguments(plain_parser)
    assert DEQModule(**settings_from(plain_parser.parse_args([]))).settings == DEQModule().settings
    assert "with Anderson evaluations" in plain_parser.format_help().replace("\n", " ").replace("  ", "")
    with pytest.raises(TypeError, match="there is no setting 'f_max_iter': it is called f_thres"):
        add_arguments(argparse.ArgumentParser(), f_max_iter=3)
    with pytest.raises(ValueError, match=r"`solver` is Broyden\(history=3\), whose options have no flags"):
        add_arguments(argparse.ArgumentParser(), f_options={"history": 3})


# -- the installed package


def test_the_engine_is_a_package_under_any_name_among_folders_of_the_same_names(tmp_path):
    """As pip installs it, in a folder that has a modules and a utils of its own."""
    shutil.copytree(ENGINE, tmp_path / "site" / "deqlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("modules", "utils", "system", "models"):
        (tmp_path / "app" / name).mkdir(parents=True)
        (tmp_path / "app" / name / "__init__.py").write_text("raise SystemExit('somebody else was imported')\n")
    program = (
        "import torch, deqlib\n"
        "z, info = deqlib.DEQModule()(lambda z: 0.5 * torch.cos(z), torch.zeros(2, 3))\n"
        "assert all(hasattr(deqlib, name) for name in deqlib.__all__)\n"
        "print(info.forward.termination.name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path / "app", env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("CONVERGED\n", "")


def test_the_public_names_are_there():
    modules = importlib.import_module("modules")
    assert sorted(public_names, key=lambda name: (not name.isupper(), name.lower() == name, name)) == public_names
    assert all(getattr(modules, name).__doc__ for name in public_names if name != "SOLVERS")
