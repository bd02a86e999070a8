"""torch's Muon with its orthogonalisation in the matrices' own precision on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class MatrixMuon(torch.optim.Muon):
    """`torch.optim.Muon`, whose arguments and state it has; on a CPU the iteration does not go to bfloat16.

    torch rounds the momentum to bfloat16 before it is orthogonalised. That is made for GPUs: where a CPU has no units
    for bfloat16, its products take about ten times as long as in single precision, and with a small model the
    optimizer takes longer than all the rest of a step.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all matrices that have a gradient; the closure's value."""
        if any(parameter.device.type != "cpu" for group in self.param_groups for parameter in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        direction = orthogonalised(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], n_steps: int, eps: float) -> Tensor:
    """A matrix (rows, columns) with the singular vectors of the given one and singular values near 1.

    Newton and Schulz: X ← a X + (b A + c A²) X with A = X Xᵀ, from X = matrix / max(‖matrix‖, eps), for (a, b, c) in
    `coefficients`; the smaller of the two sides is that of A.
    """
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(n_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T
