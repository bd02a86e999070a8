"""Models ported from torchdeq: our outputs and gradients are those that torchdeq 0.1.0 gave in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ported_models import MODELS, N_STEPS, ImplicitGraph, Outcome, SampledTrajectory

FILE = Path(__file__).parent / "golden" / "torchdeq_ports.npz"
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as file:
        return dict(file)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_torchdeqs(name, golden):
    of_outputs, of_gradients = MODELS[name]().outcome().differences(Outcome.read(name, golden))
    assert of_outputs < TOLERANCE
    assert of_gradients < TOLERANCE


def test_the_file_holds_these_models_alone(golden):
    assert {key.split(".")[0] for key in golden} == set(MODELS)


def test_the_last_sampled_state_is_the_last_iterate():
    model = SampledTrajectory()
    (by_hand,) = model.start
    for _ in range(N_STEPS + 1):  # the last one is the application with gradients
        by_hand = model.f(by_hand)
    *_, (last,) = model.solve()
    torch.testing.assert_close(last, by_hand, rtol=0, atol=1e-14)


def test_the_graphs_rows_depend_on_each_other():
    """So its state is no batch of features, and is solved as a batch of one."""
    model = ImplicitGraph()
    jacobian = torch.autograd.functional.jacobian(model.f, *model.start)  # feature, node, feature, node
    assert jacobian[0, :, 1].abs().max() > 0.01
