"""A throw-away language model: an equilibrium of tanh layers that see the position before."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from models.context import Context, batched
from models.protocol import CellMap, Hidden, LanguageModel, ModelSpec, Problem
from system.flag import flag
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax


@dataclass(frozen=True)
class TanhContext(Context):
    weight: Tensor  # (D, D), contracting
    injection: Tensor = batched(0)  # (B, L, D)
    before: Tensor = batched(0)  # (B, 1, D), the last state of the segment before


class TanhCell(nn.Module):
    """f(z)_t = tanh(W z_t + z_{t-1} / 2 + u_t)."""

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(d_model) * 0.3)
        self.d_injection = d_model

    def context(self, memory: Tensor, injection: Tensor, positions: None = None) -> TanhContext:
        scale = (0.45 / self.weight.abs().sum(1, keepdim=True)).clamp_max(1.0)
        return TanhContext(self.weight * scale, injection, memory)

    def forward(self, z: Tensor, context: TanhContext) -> Tensor:
        before = torch.cat([context.before, z[:, :-1]], dim=1)
        return torch.tanh(z @ context.weight.t() + before / 2 + context.injection)


@dataclass(frozen=True)
class TanhFlags:
    width: int = flag(8, "width of the states", least=1, fixed="the weights have its shape")
    gain: float = flag(1.0, "factor on the injection", above=0, sweeps=True)


@dataclass(frozen=True)
class TanhConfig:
    n_token: int
    width: int
    gain: float

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"`width` is {self.width}: pass an even one")


class TanhLM(LanguageModel):
    memory_length = 1
    reach = ("gain",)

    def __init__(self, config: TanhConfig):
        super().__init__()
        self.config = config
        self.word_emb = AdaptiveEmbedding(config.n_token, config.width, config.width)
        self.cell = TanhCell(config.width)
        self.inject = nn.Linear(config.width, self.cell.d_injection)
        self.head = ProjectedAdaptiveLogSoftmax(config.n_token, config.width, config.width)

    def problem(self, tokens, memory):
        injection = self.config.gain * self.inject(self.word_emb(tokens.t()))
        before = injection.new_zeros(len(injection), 1, self.config.width) if memory is None else memory
        return Problem(CellMap(self.cell, self.cell.context(before, injection)), torch.zeros_like(injection))

    def hidden(self, tokens, memory, depth):
        z, solve = depth(*self.problem(tokens, memory))
        states = z.transpose(0, 1)
        return Hidden(states, z[:, -1:].detach(), solve, raw=states)

    def embedding_parameters(self):
        return self.word_emb.parameters()


class Weights:
    def recognises(self, state):
        return "cell.weight" in state

    def modern(self, state):
        return {name.removeprefix("old."): value for name, value in state.items()}

    def check(self, state, config):
        width = state["cell.weight"].shape[0]
        if width != config.width:
            raise ValueError(f"`width` is {config.width} but the file has {width}: pass `width` {width}")


SPEC = ModelSpec(
    name="tanh equilibrium",
    program="train_tanh.py",
    flags=TanhFlags,
    resolve=lambda settings: {},
    configure=lambda settings, n_token: TanhConfig(
        n_token, **{entry.name: getattr(settings, entry.name) for entry in fields(TanhFlags)}
    ),
    build=TanhLM,
    initialise=lambda model, settings: None,
    weights=Weights(),
)
