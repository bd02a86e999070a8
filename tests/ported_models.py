"""Five small models as they are written for torchdeq, in float64, with our solves of them.

Every model is plain PyTorch: `f(*state)` is the map in torchdeq's style, `start` the state that a solve begins with and
`loss(*state)` the loss of one state. All numbers come from seeds. The input `x` is a parameter like the weights, so
that its gradient is compared too. `golden/torchdeq_ports.npz` holds what torchdeq makes of the same models, see
`benchmarks/compare_torchdeq_ports.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.deq import DEQModule
from modules.state import State, unpacked

TIGHT = {"f_thres": 150, "b_thres": 150, "f_eps": 1e-13, "b_eps": 1e-13}
GAMMA = 0.8  # weight of a sampled state relative to the next one's
N_STATES, N_STEPS = 3, 12


@dataclass(frozen=True)
class Outcome:
    """A library's numbers for one model: the tensors of its states, and the loss's gradient by parameter."""

    outputs: tuple[Tensor, ...]
    gradients: dict[str, Tensor]

    @classmethod
    def of(cls, model: PortedModel, states: Sequence[Sequence[Tensor]], loss: Tensor) -> Outcome:
        """Goes backward from the loss; a state is a sequence of tensors."""
        names, parameters = zip(*model.named_parameters(), strict=True)
        outputs = tuple(part.detach() for state in states for part in state)
        return cls(outputs, dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """For an .npz file, under the model's name."""
        numbered = {f"{name}.output.{i}": output.numpy() for i, output in enumerate(self.outputs)}
        return numbered | {f"{name}.gradient.{key}": grad.numpy() for key, grad in self.gradients.items()}

    @classmethod
    def read(cls, name: str, arrays: dict[str, np.ndarray]) -> Outcome:
        """The reverse of `arrays`, from a file of several models."""
        start, of_gradients = f"{name}.output.", f"{name}.gradient."
        count = sum(key.startswith(start) for key in arrays)
        gradients = {
            key.removeprefix(of_gradients): torch.from_numpy(array)
            for key, array in arrays.items()
            if key.startswith(of_gradients)
        }
        return cls(tuple(torch.from_numpy(arrays[f"{start}{i}"]) for i in range(count)), gradients)

    def differences(self, other: Outcome) -> tuple[float, float]:
        """Largest difference of an output, and of a gradient relative to the gradients' largest entry.

        Raises ValueError where the two differ in the number of tensors, their names or their shapes.
        """
        if self.gradients.keys() != other.gradients.keys():
            raise ValueError(f"gradients of {sorted(self.gradients)} and of {sorted(other.gradients)}")
        largest = max(grad.abs().max().item() for grad in other.gradients.values())
        outputs = [_largest_difference(*pair) for pair in zip(self.outputs, other.outputs, strict=True)]
        gradients = [_largest_difference(grad, other.gradients[key]) for key, grad in self.gradients.items()]
        return max(outputs), max(gradients) / largest


def _largest_difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} are not the same")
    return (a - b).abs().max().item()


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _weight(*shape: int, seed: int, norm: float) -> nn.Parameter:
    """A weight (out, …) whose matrix has this spectral norm."""
    weight = _random(*shape, seed=seed)
    return nn.Parameter(norm * weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2))


def _gain(n: int, seed: int, size: float) -> nn.Parameter:
    return nn.Parameter(size * (1 + 0.2 * _random(n, seed=seed)))


def _bias(n: int, seed: int) -> nn.Parameter:
    return nn.Parameter(0.1 * _random(n, seed=seed))


class PortedModel(nn.Module):
    """What the five have in common."""

    start: tuple[Tensor, ...]

    def f(self, *state: Tensor) -> State:
        """The map; of one tensor it gives a tensor, of several a tuple."""
        raise NotImplementedError

    def loss(self, *state: Tensor) -> Tensor:
        """The loss of one state: the mean square of its distance from random targets."""
        targets = [_random(*part.shape, seed=90 + i) for i, part in enumerate(state)]
        return sum((part - target).square().mean() for part, target in zip(state, targets, strict=True))

    def solve(self) -> list[tuple[Tensor, ...]]:
        """The states that the loss is of, as this library finds them, with their gradients."""
        z, _ = DEQModule(**TIGHT)(self.f, *self.start)
        return [(z,)]

    def outcome(self) -> Outcome:
        """This library's numbers; the k-th of n states has the weight GAMMA^(n - k - 1)."""
        states = self.solve()
        loss = sum(GAMMA ** (len(states) - k - 1) * self.loss(*state) for k, state in enumerate(states))
        return Outcome.of(self, states, loss)


class LanguageModel(PortedModel):
    """A transformer's layer: pre-norm causal attention and feed-forward, the sum normalised. State (B, L, D)."""

    def __init__(self, n_batch: int = 2, length: int = 5, width: int = 8, n_head: int = 2, n_token: int = 7):
        super().__init__()
        self.n_head = n_head
        self.x = nn.Parameter(_random(n_batch, length, width, seed=0))
        self.injection = _weight(3 * width, width, seed=1, norm=1.0)
        self.qkv = _weight(3 * width, width, seed=2, norm=1.0)
        self.projection = _weight(width, width, seed=3, norm=1.0)
        self.widening = _weight(2 * width, width, seed=4, norm=1.0)
        self.narrowing = _weight(width, 2 * width, seed=5, norm=1.0)
        self.gains = nn.ParameterList([_gain(width, seed, size) for seed, size in ((6, 0.3), (7, 0.5), (8, 0.4))])
        self.biases = nn.ParameterList([_bias(width, seed) for seed in (9, 10, 11)])
        self.head = _weight(n_token, width, seed=12, norm=3.0)
        self.targets = torch.arange(n_batch * length) * 3 % n_token
        self.start = (torch.zeros_like(self.x),)

    def _normalised(self, which: int, z: Tensor) -> Tensor:
        return F.layer_norm(z, z.shape[-1:], self.gains[which], self.biases[which])

    def _attention(self, z: Tensor) -> Tensor:
        n_batch, length, width = z.shape
        heads = (z @ self.qkv.t() + self.x @ self.injection.t()).view(n_batch, length, 3, self.n_head, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return read.transpose(1, 2).reshape(n_batch, length, width) @ self.projection.t()

    def f(self, z: Tensor) -> Tensor:
        z = z + self._attention(self._normalised(0, z))
        z = z + torch.relu(self._normalised(1, z) @ self.widening.t()) @ self.narrowing.t()
        return self._normalised(2, z + self.x)

    def loss(self, z: Tensor) -> Tensor:
        """Cross entropy of a linear head's logits."""
        return F.cross_entropy((z @ self.head.t()).flatten(0, 1), self.targets)


class ThreeTensors(PortedModel):
    """A state of tensors of three shapes, each driven by the next."""

    def __init__(self, n_batch: int = 3):
        super().__init__()
        self.x = nn.Parameter(_random(n_batch, 4, seed=20))
        self.to_vector = _weight(4, 15, seed=21, norm=0.7)
        self.to_matrix = _weight(15, 8, seed=22, norm=0.8)
        self.to_cube = _weight(8, 4, seed=23, norm=0.9)
        self.bias = _bias(5, seed=24)
        self.start = tuple(torch.zeros(n_batch, *shape, dtype=torch.float64) for shape in ((4,), (3, 5), (2, 2, 2)))

    def f(self, vector: Tensor, matrix: Tensor, cube: Tensor) -> tuple[Tensor, ...]:
        return (
            torch.tanh(matrix.flatten(1) @ self.to_vector.t() + self.x),
            torch.sin(cube.flatten(1) @ self.to_matrix.t()).view_as(matrix) + self.bias,
            0.5 * torch.cos(vector @ self.to_cube.t()).view_as(cube) + 0.2 * cube,
        )

    def solve(self) -> list[tuple[Tensor, ...]]:
        state, _ = DEQModule(**TIGHT)(unpacked(self.f), self.start)
        return [state]


class ImplicitGraph(PortedModel):
    """Z = tanh(W Z A + U X), features × nodes, of one graph: its nodes, and so a state's rows, depend on each other."""

    def __init__(self, n_feature: int = 4, n_node: int = 7, n_input: int = 3):
        super().__init__()
        self.x = nn.Parameter(_random(n_input, n_node, seed=30))
        self.w = _weight(n_feature, n_feature, seed=31, norm=0.7)
        self.u = _weight(n_feature, n_input, seed=32, norm=1.0)
        ring = torch.eye(n_node, dtype=torch.float64).roll(1, dims=0)
        edges = ring + ring.t() + torch.eye(n_node, dtype=torch.float64)
        edges[0, 3] = edges[3, 0] = 1
        scale = edges.sum(0).rsqrt()
        self.adjacency = scale[:, None] * edges * scale  # of spectral norm 1
        self.start = (torch.zeros(n_feature, n_node, dtype=torch.float64),)

    def f(self, z: Tensor) -> Tensor:
        return torch.tanh(self.w @ z @ self.adjacency + self.u @ self.x)

    def solve(self) -> list[tuple[Tensor, ...]]:
        z, _ = DEQModule(**TIGHT)(lambda z: self.f(z[0])[None], self.start[0][None])
        return [(z[0],)]


class MultiScale(PortedModel):
    """Two feature maps, (B, 8, 8, 8) and (B, 16, 4, 4): a convolution of each, plus the other one resampled."""

    def __init__(self, n_batch: int = 2):
        super().__init__()
        self.x = nn.Parameter(_random(n_batch, 8, 8, 8, seed=40))
        self.fine = _weight(8, 8, 3, 3, seed=41, norm=1.0)
        self.coarse = _weight(16, 16, 3, 3, seed=42, norm=1.0)
        self.down = _weight(16, 8, 3, 3, seed=43, norm=1.0)
        self.up = _weight(8, 16, 1, 1, seed=44, norm=0.5)
        self.gains = nn.ParameterList([_gain(8, 45, 0.3), _gain(16, 46, 0.3)])
        self.biases = nn.ParameterList([_bias(8, 47), _bias(16, 48)])
        self.start = (torch.zeros_like(self.x), torch.zeros(n_batch, 16, 4, 4, dtype=torch.float64))

    def _normalised(self, which: int, z: Tensor) -> Tensor:
        return F.group_norm(z, 4, self.gains[which], self.biases[which])

    def f(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        to_fine = F.interpolate(F.conv2d(coarse, self.up), scale_factor=2, mode="nearest")
        to_coarse = F.conv2d(self.x + fine, self.down, stride=2, padding=1)
        return (
            torch.relu(self._normalised(0, self.x + F.conv2d(fine, self.fine, padding=1) + to_fine)),
            torch.relu(self._normalised(1, F.conv2d(coarse, self.coarse, padding=1) + to_coarse)),
        )

    def solve(self) -> list[tuple[Tensor, ...]]:
        state, _ = DEQModule(**TIGHT)(unpacked(self.f), self.start)
        return [state]


class SampledTrajectory(PortedModel):
    """A gated recurrent unit to convergence, the loss of iterates on the way, each with one application's gradient."""

    def __init__(self, n_batch: int = 3, width: int = 6):
        super().__init__()
        self.x = nn.Parameter(_random(n_batch, width, seed=50))
        self.gate = _weight(width, width, seed=51, norm=1.0)
        self.candidate = _weight(width, width, seed=52, norm=0.5)
        self.bias = _bias(width, seed=53)
        self.start = (torch.zeros_like(self.x),)

    def f(self, z: Tensor) -> Tensor:
        gate = torch.sigmoid(self.x @ self.gate.t() + 1)
        return torch.lerp(z, torch.tanh(z @ self.candidate.t() + self.x + self.bias), gate)

    def solve(self) -> list[tuple[Tensor, ...]]:
        deq = DEQModule(solver="fixed_point", grad="one_step", f_thres=N_STEPS, f_eps=0)
        z, info = deq(self.f, *self.start, iterates=N_STATES)
        return [(state,) for state in (*info.iterates, z)]


MODELS: dict[str, Callable[[], PortedModel]] = {
    "language_model": LanguageModel,
    "three_tensors": ThreeTensors,
    "implicit_graph": ImplicitGraph,
    "multi_scale": MultiScale,
    "sampled_trajectory": SampledTrajectory,
}
