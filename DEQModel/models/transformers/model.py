"""The DEQ-Transformer language model.

Shape legend: B sequences, L target positions, M memory positions, K = M + L, D = d_model. Tokens and targets come
time first, (L, B), as the data's batches do; states are (B, L, D).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformers.attention import RelativeAttention
from models.transformers.cell import CellMap, TransformerCell
from models.transformers.config import FREE_SETTINGS, DEQTransformerConfig
from models.transformers.feed_forward import PositionwiseFeedForward
from modules.deq import DEQModule
from modules.jacobian import spectral_radius
from modules.optimizations import masked, variational_mask
from modules.report import SolveInfo
from modules.tracker import BatchSum
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax
from utils.positional_embedding import PositionalEmbedding


class Memory(NamedTuple):
    """What a segment hands to the next one, detached: states and injection of the last positions."""

    z: Tensor  # (B, M, D)
    u: Tensor  # (B, M, 3D)


@dataclass(frozen=True)
class LMOutput:
    """One segment's result."""

    nll: Tensor  # (L, B), negative log-likelihood of each target in nats
    memory: Memory
    solve: SolveInfo | None  # None in the shallow stage


class DEQTransformerLM(nn.Module):
    """Embedding → injection u → z* = f(z*; u, memory) → adaptive softmax.

    The model keeps no state between calls: the memory goes in and comes out. Parameter names are those of the published
    state dicts.

    Args:
        config: shapes and settings.

    Source: arXiv 1909.01377, section 4; memory and relative positions: arXiv 1901.02860.
    """

    def __init__(self, config: DEQTransformerConfig):
        super().__init__()
        self.config = config
        bins = (config.n_token, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        self.word_emb = AdaptiveEmbedding(*bins)
        self.pos_emb = PositionalEmbedding(config.d_model)
        self.inject_conv = nn.Conv1d(config.d_model, 3 * config.d_model, kernel_size=1)
        self.func = TransformerCell(
            RelativeAttention(
                config.d_model,
                config.n_head,
                config.d_head,
                dropout=config.dropout,
                dropatt=config.dropatt,
                wnorm=config.wnorm,
                local_size=config.horizon,
            ),
            PositionwiseFeedForward(config.d_model, config.d_inner, dropout=config.dropout, wnorm=config.wnorm),
            pre_lnorm=config.pre_lnorm,
        )
        self.deq = DEQModule(**config.equilibrium_settings())
        self.crit = ProjectedAdaptiveLogSoftmax(*bins)
        if config.tied:
            self.crit.tie(self.word_emb)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        memory: Memory | tuple[Tensor, Tensor] | None = None,
        *,
        n_layer: int | None = None,
        jacobian_samples: int = 0,
    ) -> LMOutput:
        """Scores one segment.

        Args:
            tokens: word ids (L, B), int64.
            targets: the ids that follow them (L, B).
            memory: (z, u) of the segment before, None for the first one.
            n_layer: None solves for the equilibrium; a number applies the cell that many times from 0 (the
                shallow stage), with ordinary backpropagation.
            jacobian_samples: vectors for the penalty `solve.jacobian_loss` on the equilibrium's Jacobian.
        """
        n_target, n_batch = tokens.shape
        memory = Memory(*memory) if memory is not None else self._empty_memory(n_batch)
        f, z, injection = self._map(tokens, memory)
        solve = None
        if n_layer is None:
            z, solve = self.deq(f, z, jacobian_samples=jacobian_samples)
        else:
            for _ in range(n_layer):
                z = f(z)
        by_channel = self.config.out_dropout == "channel"
        hidden = self._drop(z, (n_batch, 1, self.config.d_model) if by_channel else (n_batch, n_target, 1))
        nll = self.crit(hidden.transpose(0, 1).reshape(n_target * n_batch, -1), targets.reshape(-1))
        return LMOutput(nll.view(n_target, n_batch), self._remember(memory, z, injection), solve)

    @torch.no_grad()
    def spectral_radius(self, tokens: Tensor, memory: Memory | None = None) -> Tensor:
        """The spectral radius of ∂f/∂z at each sequence's equilibrium, (B,); it is solved for on the way.

        Args:
            tokens, memory: as for `forward`.
        """
        f, z, _ = self._map(tokens, memory or self._empty_memory(tokens.shape[1]))
        z, _ = self.deq(f, z)
        return spectral_radius(f, z)

    def with_settings(self, *, batch_sum: BatchSum | None = None, **changes: Any) -> DEQTransformerLM:
        """A model that shares this one's parameters, and solves or remembers otherwise.

        Args:
            batch_sum: of the new model's `DEQModule`: its batches are parts of divided ones. None: they are whole,
                whatever this model's are.
            changes: fields of `DEQTransformerConfig` that are named in `FREE_SETTINGS`, such as `f_thres`.

        Raises:
            ValueError: a setting that a model cannot change.
            UserError: the changed configuration contradicts itself.
        """
        for name in changes:
            if name not in FREE_SETTINGS:
                raise ValueError(f"{name} belongs to the model's build: choose from {', '.join(FREE_SETTINGS)}")
        config = dataclasses.replace(self.config, **changes)
        deq = DEQModule(**config.equilibrium_settings(), batch_sum=batch_sum).train(self.training)
        shared = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        other = copy.deepcopy(self, shared | {id(self.deq): deq})  # not of its batch_sum, which may hold processes
        other.config = config
        other.func.dec_attn.local_size = config.horizon
        return other

    def _map(self, tokens: Tensor, memory: Memory) -> tuple[CellMap, Tensor, Tensor]:
        """f for tokens (L, B), its start z = 0 (B, L, D), and the injection over memory and tokens (B, K, 3D)."""
        n_batch = tokens.shape[1]
        embedded = self._drop(self.word_emb(tokens.t().contiguous()), (n_batch, 1, self.config.d_model))
        injection = F.linear(embedded, self.inject_conv.weight.squeeze(2), self.inject_conv.bias)
        injection = torch.cat([memory.u, injection], dim=1)
        positions = self._drop(self.pos_emb(injection.shape[1]), (1, self.config.d_model))
        context = self.func.context(memory.z, injection, positions)
        return CellMap(self.func, context), torch.zeros_like(embedded), injection

    def _drop(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return masked(x, variational_mask(shape, self.config.dropout, x, training=self.training))

    def _empty_memory(self, n_batch: int) -> Memory:
        like = self.inject_conv.weight
        return Memory(
            like.new_zeros(n_batch, 0, self.config.d_model), like.new_zeros(n_batch, 0, 3 * self.config.d_model)
        )

    def _remember(self, memory: Memory, z: Tensor, injection: Tensor) -> Memory:
        """The last mem_len positions of [memory; z] and of u, detached."""
        n_keep = min(self.config.mem_len, injection.shape[1])
        first = injection.shape[1] - n_keep
        states = torch.cat([memory.z, z.detach()], dim=1)
        return Memory(states[:, first:], injection.detach()[:, first:])
