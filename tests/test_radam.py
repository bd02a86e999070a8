"""torch's RAdam with decoupled weight decay is the optimiser that the published models were trained with.

That one rounds the parameter and its moments to float32 at each step, whatever the parameter's type, and so does the
golden trajectory. Hence the two steps here: the textbook's update under that rounding gives the golden trajectory, and
without it gives torch's.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden" / "radam.npz"
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def multiply_add(a, b, c, dtype):
    """a · b + c with a single rounding to `dtype`, as processors do it."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(dtype)


def textbook_trajectory(golden, dtype):
    """Liu et al., arXiv 1908.03265, algorithm 2, on ‖A p‖², with the state rounded to `dtype`."""
    matrix, lr, decay = golden["A"], float(golden["lr"]), float(golden["weight_decay"])
    p = golden["trajectory"][0]
    mean = np.zeros_like(p, dtype)
    square = np.zeros_like(p, dtype)
    trajectory = [p]
    rho_end = 2 / (1 - BETA2) - 1
    for t in range(1, len(golden["trajectory"])):
        gradient = (2 * matrix.T @ (matrix @ p)).astype(dtype)
        square = multiply_add(dtype(1 - BETA2) * gradient, gradient, square * dtype(BETA2), dtype)
        mean = multiply_add(dtype(1 - BETA1), gradient, mean * dtype(BETA1), dtype)
        rho = rho_end - 2 * t * BETA2**t / (1 - BETA2**t)
        step = lr / (1 - BETA1**t)
        p = p.astype(dtype)
        p = multiply_add(dtype(-decay * lr), p, p, dtype)
        if rho >= 5:
            rectifier = math.sqrt((rho - 4) * (rho - 2) * rho_end / ((rho_end - 4) * (rho_end - 2) * rho))
            step *= rectifier * math.sqrt(1 - BETA2**t)
            p = p + dtype(-step) * mean / (np.sqrt(square) + dtype(EPS))
        else:
            p = multiply_add(dtype(-step), mean, p, dtype)
        p = p.astype(np.float64)
        trajectory.append(p)
    return np.stack(trajectory)


def torch_trajectory(golden):
    matrix = torch.from_numpy(golden["A"])
    parameter = torch.nn.Parameter(torch.from_numpy(golden["trajectory"][0].copy()))
    lr, decay = float(golden["lr"]), float(golden["weight_decay"])
    optimizer = torch.optim.RAdam([parameter], lr=lr, weight_decay=decay, decoupled_weight_decay=True)
    trajectory = [parameter.detach().clone()]
    for _ in golden["trajectory"][1:]:
        optimizer.zero_grad()
        (matrix @ parameter).square().sum().backward()
        optimizer.step()
        trajectory.append(parameter.detach().clone())
    return torch.stack(trajectory).numpy()


def test_the_golden_trajectory_is_the_textbook_rounded_to_float32(golden):
    trajectory = textbook_trajectory(golden, np.float32)
    np.testing.assert_allclose(trajectory, golden["trajectory"], rtol=0, atol=1e-9)
    assert abs(trajectory[-1] - trajectory[0]).max() > 0.1


def test_torch_is_the_textbook(golden):
    np.testing.assert_allclose(torch_trajectory(golden), textbook_trajectory(golden, np.float64), rtol=0, atol=1e-12)


def test_torch_follows_the_golden_trajectory_within_float32_rounding(golden):
    np.testing.assert_allclose(torch_trajectory(golden), golden["trajectory"], rtol=0, atol=2e-7)
