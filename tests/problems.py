"""Fixed-point problems with known equilibria, shared by the tests of solvers and gradients and by the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from models.protocol import CellMap
from models.transformers.attention import Positions, RelativeAttention, visibility
from models.transformers.cell import TransformerCell
from models.transformers.feed_forward import PositionwiseFeedForward
from modules.state import State, StateLayout


@dataclass(frozen=True)
class Problem:
    """z = f(z) from `start`, (B, *) or a tuple of such, with its equilibrium in float64 or None where there is none."""

    f: Callable[[State], State]
    start: State
    equilibrium: State | None
    radius: float  # largest |eigenvalue| of ∂f/∂z, or a bound below 1: the rate of plain iteration; inf without one

    def flattened(self) -> Problem:
        """The same with a tensor for a state."""
        if isinstance(self.start, Tensor):
            return self
        layout = StateLayout.of(self.start)
        return replace(
            self,
            f=layout.flattened(self.f),
            start=layout.flatten(self.start),
            equilibrium=layout.flatten(self.equilibrium),
        )

    def scaled(self, s: float) -> Problem:
        """z = s f(z / s): a tensor problem in other units."""
        equilibrium = None if self.equilibrium is None else s * self.equilibrium
        return replace(self, f=lambda z: s * self.f(z / s), start=s * self.start, equilibrium=equilibrium)


def conditioning(problem: Problem) -> float:
    """‖(I - ∂f/∂z)⁻¹‖ at the equilibrium of a float64 tensor problem: error over residual, close to it."""
    z = problem.equilibrium
    jacobian = torch.autograd.functional.jacobian(problem.f, z).reshape(z.numel(), z.numel())
    return torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(z.numel()) - jacobian), ord=2).item()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _offset(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _linear(matrix: Tensor, offset: Tensor, dtype: torch.dtype) -> Problem:
    """f(z) = A z + b on (B, n): z* = (I - A)⁻¹ b."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    equilibrium = torch.linalg.solve(identity - matrix, offset.t()).t()
    a, b = matrix.to(dtype), offset.to(dtype)
    radius = torch.linalg.eigvals(matrix).abs().max().item()
    return Problem(lambda z: z @ a.t() + b, torch.zeros_like(b), equilibrium, radius)


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
    weight = _offset(6, 6, seed=2)
    weight = 0.7 * weight / torch.linalg.matrix_norm(weight, ord=2)
    offset = _offset(3, 4, 6, seed=3)
    z = torch.zeros_like(offset)
    for _ in range(200):
        z = torch.tanh(z @ weight + offset)
    w, b = weight.to(dtype), offset.to(dtype)
    return Problem(lambda x: torch.tanh(x @ w + b), torch.zeros_like(b), z, 0.7)


def stiff(dtype: torch.dtype) -> Problem:
    """z - k (z + z³/10 - c) with rates k over four decades: an implicit time step with fast and slow parts."""
    rates = torch.logspace(-2, 2, 6, dtype=torch.float64)
    equilibrium = 0.7 * torch.sign(_offset(2, 6, seed=4)) * torch.linspace(0.5, 1, 6, dtype=torch.float64)
    k, c = rates.to(dtype), (equilibrium + equilibrium**3 / 10).to(dtype)
    return Problem(lambda z: z - k * (z + z**3 / 10 - c), torch.zeros_like(c), equilibrium, 100 * 1.15 - 1)


def image(dtype: torch.dtype) -> Problem:
    """A 4-dimensional state (B, C, H, W)."""
    offset = _offset(2, 3, 4, 5, seed=5)
    z = torch.zeros_like(offset)
    for _ in range(100):
        z = 0.5 * torch.cos(z.roll(1, dims=3)) + offset
    b = offset.to(dtype)
    return Problem(lambda x: 0.5 * torch.cos(x.roll(1, dims=3)) + b, torch.zeros_like(b), z, 0.5)


def pair(dtype: torch.dtype) -> Problem:
    """A tuple of tensors of different shapes that drive each other."""
    weight, a, b = 0.3 * _offset(4, 3, seed=6), _offset(2, 3, seed=7), _offset(2, 2, 2, seed=8)

    def on(w: Tensor, a: Tensor, b: Tensor) -> Callable[[State], State]:
        def f(state: State) -> State:
            x, y = state
            return torch.tanh(y.flatten(1) @ w) + a, 0.5 * torch.sin(x @ w.t()).view_as(y) + b

        return f

    z = (torch.zeros_like(a), torch.zeros_like(b))
    start = tuple(part.to(dtype) for part in z)
    for _ in range(200):
        z = on(weight, a, b)(z)
    return Problem(on(weight.to(dtype), a.to(dtype), b.to(dtype)), start, z, 0.8)


def _transformer_map(dtype: torch.dtype) -> CellMap:
    n_batch, n_memory, n_query, d_model = 2, 3, 4, 8
    attention = RelativeAttention(d_model, 2, 4, dropout=0.0, dropatt=0.0, wnorm=False)
    cell = TransformerCell(attention, PositionwiseFeedForward(d_model, 12, dropout=0.0, wnorm=False))
    for i, parameter in enumerate(cell.parameters()):
        parameter.requires_grad_(False)
        parameter.data = (0.3 * _offset(*parameter.shape, seed=20 + i)).to(dtype)
    memory = _offset(n_batch, n_memory, d_model, seed=10).to(dtype)
    injection = _offset(n_batch, n_memory + n_query, 3 * d_model, seed=11).to(dtype)
    embedding = _offset(n_memory + n_query, d_model, seed=12).to(dtype)
    positions = Positions(embedding, visibility(n_query, n_memory, 0, memory))
    return CellMap(cell, cell.context(memory, injection, positions))


@cache
def _transformer_equilibrium() -> Tensor:
    """By Newton's method with the whole Jacobian."""
    f = _transformer_map(torch.float64)
    z = torch.zeros(2, 4, 8, dtype=torch.float64)
    for _ in range(30):
        z = f(z)
    for _ in range(8):
        jacobian = torch.autograd.functional.jacobian(f, z).reshape(z.numel(), z.numel())
        z = z + torch.linalg.solve(torch.eye(z.numel()) - jacobian, (f(z) - z).flatten()).view_as(z)
    return z


def transformer(dtype: torch.dtype) -> Problem:
    """The language model's cell, tiny: (B, L, D)."""
    z = _transformer_equilibrium()
    return Problem(_transformer_map(dtype), torch.zeros(z.shape, dtype=dtype), z, 1.0)


def jump(dtype: torch.dtype) -> Problem:
    """No equilibrium: |f(z) - z| is at least ½ everywhere."""
    start = torch.zeros(2, 3, dtype=dtype)
    return Problem(lambda z: torch.where(z <= 0.5, 1.0, 0.0).to(z.dtype), start, None, float("inf"))


def not_a_number(dtype: torch.dtype) -> Problem:
    """√(0.2 - z): real at the start and nowhere after it."""
    return Problem(lambda z: torch.sqrt(0.2 - z), torch.zeros(2, 3, dtype=dtype), None, float("inf"))


PROBLEMS: dict[str, Callable[[torch.dtype], Problem]] = {
    "diagonal": diagonal,
    "rotation": rotation,
    "expanding": expanding,
    "non_normal": non_normal,
    "constant": constant,
    "tanh": tanh,
    "stiff": stiff,
    "transformer": transformer,
    "image": image,
    "pair": pair,
    "jump": jump,
    "not_a_number": not_a_number,
}
