"""The model of `port_from_torchdeq.md` as it is after the move, trained on data made in code in some seconds.

    PYTHONPATH=DEQModel python examples/port_from_torchdeq.py

Printed: the loss as it falls, with the steps of the last forward and backward solve; the loss in evaluation mode, with
a higher threshold and without the weight normalisation; and the spectral radius of the map there.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Where the package was installed: from deqlib import …
from modules import (
    DEQModule,
    SolveInfo,
    add_arguments,
    mixed_start,
    normalise,
    plain,
    settings_from,
    spectral_radius,
    weighted_loss,
)

N_STATES = 3  # of a solve that the loss is of, its result among them
JACOBIAN_WEIGHT = 0.3


class Model(nn.Module):
    """x (B, 4) → z = tanh(W z + U x + b), (B, 16) → a number for each row and each state that was asked for."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.inject, self.recur, self.head = nn.Linear(4, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 1)
        normalise(self.recur, "weight")
        self.deq = DEQModule(**settings, evaluation={"f_thres": 2 * settings["f_thres"]})

    def f(self, z: Tensor, injection: Tensor) -> Tensor:
        return torch.tanh(self.recur(z) + injection)

    def forward(self, x: Tensor, *, iterates: int = 1, jacobian_samples: int = 0) -> tuple[list[Tensor], SolveInfo]:
        injection = self.inject(x)  # what does not depend on z stays outside f
        start = mixed_start(injection) if self.training else torch.zeros_like(injection)
        z, info = self.deq(lambda z: self.f(z, injection), start, iterates=iterates, jacobian_samples=jacobian_samples)
        return [self.head(state).squeeze(1) for state in (*info.iterates, z)], info


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="training steps (default: %(default)s)")
    add_arguments(parser, solver="anderson", f_thres=30, b_thres=30, f_eps=1e-4, b_eps=1e-4)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    x = torch.randn(256, 4)
    y = torch.sin(2 * x[:, 0]) * x[:, 1]
    model = Model(settings_from(args))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(args.steps):
        predictions, info = model(x, iterates=N_STATES, jacobian_samples=1)
        loss = weighted_loss(lambda prediction: F.mse_loss(prediction, y), predictions, gamma=0.8)
        optimizer.zero_grad()
        (loss + JACOBIAN_WEIGHT * info.jacobian_loss).backward()
        optimizer.step()
        if step % max(args.steps // 4, 1) == 0 or step == args.steps - 1:
            n_backward = info.backward.n_steps if info.backward else 0  # other gradients have no backward solve
            steps = f"{info.forward.n_steps} steps forward, {n_backward} backward"
            print(f"step {step:3d}  loss {loss.item():.4f}  {steps}")

    model.eval()
    plain(model)  # the weights keep their values
    with torch.no_grad():
        (prediction,), info = model(x)
        injection = model.inject(x)
        z, _ = model.deq(lambda z: model.f(z, injection), torch.zeros_like(injection), f_eps=1e-6)  # for this call
    solved = f"{info.forward.n_steps} steps, residual {info.forward.residual:.1e}: {info.forward.termination.value}"
    print(f"evaluation  loss {F.mse_loss(prediction, y).item():.4f}  {solved}")
    radius = spectral_radius(lambda z: model.f(z, injection[:8]), z[:8]).max().item()
    print(f"spectral radius of the map at the equilibrium, largest of 8 rows: {radius:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only wait for each other where tensors are this small
    main()
