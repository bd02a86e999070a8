"""Fixed-point problems with known equilibria, shared by the tests of solvers and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """z = f(z) from `start` (B, *), with the equilibrium known in closed form or from a long float64 iteration."""

    f: Callable[[Tensor], Tensor]
    start: Tensor
    equilibrium: Tensor
    radius: float  # largest |eigenvalue| of ∂f/∂z, or a bound below 1: the rate of plain iteration


def _linear(matrix: Tensor, offset: Tensor, dtype: torch.dtype) -> Problem:
    """f(z) = A z + b on (B, n): z* = (I - A)⁻¹ b."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    equilibrium = torch.linalg.solve(identity - matrix, offset.t()).t()
    a, b = matrix.to(dtype), offset.to(dtype)
    radius = torch.linalg.eigvals(matrix).abs().max().item()
    return Problem(lambda z: z @ a.t() + b, torch.zeros_like(b), equilibrium, radius)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _offset(n_batch: int, n: int) -> Tensor:
    return torch.randn(n_batch, n, generator=_generator(1), dtype=torch.float64)


def diagonal(dtype: torch.dtype) -> Problem:
    """Real spectrum in [-0.8, 0.8]."""
    return _linear(torch.diag(torch.linspace(-0.8, 0.8, 9, dtype=torch.float64)), _offset(3, 9), dtype)


def rotation(dtype: torch.dtype) -> Problem:
    """Complex pairs of modulus 0.9: plain iteration spirals."""
    blocks = []
    for angle in (0.5, 1.5, 3.0):
        c, s = torch.cos(torch.tensor(angle)).item(), torch.sin(torch.tensor(angle)).item()
        blocks.append(0.9 * torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    return _linear(torch.block_diag(*blocks), _offset(2, 6), dtype)


def expanding(dtype: torch.dtype) -> Problem:
    """Spectrum outside the unit circle: plain iteration diverges, an equilibrium exists all the same."""
    return _linear(torch.diag(torch.tensor([-3.0, -1.5, 0.4, 2.5], dtype=torch.float64)), _offset(2, 4), dtype)


def non_normal(dtype: torch.dtype) -> Problem:
    """Spectral radius 0.5, norm far above 1."""
    matrix = 0.5 * torch.eye(5, dtype=torch.float64) + 2.0 * torch.diag(torch.ones(4, dtype=torch.float64), 1)
    return _linear(matrix, _offset(2, 5), dtype)


def constant(dtype: torch.dtype) -> Problem:
    """f(z) = b: found by the first application."""
    return _linear(torch.zeros(4, 4, dtype=torch.float64), _offset(2, 4), dtype)


def tanh(dtype: torch.dtype) -> Problem:
    """A contraction on a (B, L, D) state."""
    weight = torch.randn(6, 6, generator=_generator(2), dtype=torch.float64)
    weight = 0.7 * weight / torch.linalg.matrix_norm(weight, ord=2)
    offset = torch.randn(3, 4, 6, generator=_generator(3), dtype=torch.float64)
    z = torch.zeros_like(offset)
    for _ in range(300):
        z = torch.tanh(z @ weight + offset)
    w, b = weight.to(dtype), offset.to(dtype)
    return Problem(lambda x: torch.tanh(x @ w + b), torch.zeros_like(b), z, 0.7)


def image(dtype: torch.dtype) -> Problem:
    """A 4-dimensional state (B, C, H, W)."""
    offset = torch.randn(2, 3, 4, 5, generator=_generator(4), dtype=torch.float64)
    z = torch.zeros_like(offset)
    for _ in range(300):
        z = 0.5 * torch.cos(z.roll(1, dims=3)) + offset
    b = offset.to(dtype)
    return Problem(lambda x: 0.5 * torch.cos(x.roll(1, dims=3)) + b, torch.zeros_like(b), z, 0.5)


PROBLEMS: dict[str, Callable[[torch.dtype], Problem]] = {
    "diagonal": diagonal,
    "rotation": rotation,
    "expanding": expanding,
    "non_normal": non_normal,
    "constant": constant,
    "tanh": tanh,
    "image": image,
}
