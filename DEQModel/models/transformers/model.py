"""The DEQ-Transformer language model.

Shape legend: B sequences, L target positions, M memory positions, K = M + L, D = d_model. Tokens and targets come
time first, (L, B), as the data's batches do; states are (B, L, D).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import CellMap, EquilibriumModel, Hidden, Problem
from models.transformers.attention import Positions, RelativeAttention, visibility
from models.transformers.cell import TransformerCell
from models.transformers.config import DEQTransformerConfig
from models.transformers.feed_forward import PositionwiseFeedForward
from modules.depth import Depth
from modules.optimizations import masked, variational_mask
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax
from utils.positional_embedding import PositionalEmbedding

REACH = ("mem_len", "local_size", "same_length")  # what a built model may be given anew


class Memory(NamedTuple):
    """What a segment hands to the next one, detached: states and injection of the last positions."""

    z: Tensor  # (B, M, D)
    u: Tensor  # (B, M, 3D)


class DEQTransformerLM(EquilibriumModel):
    """Embedding → injection u → z* = f(z*; u, memory) → adaptive softmax.

    The model keeps no state between calls: the memory goes in and comes out. Parameter names are those of the published
    state dicts.

    Args:
        config: shapes and settings.

    Source: arXiv 1909.01377, section 4; memory and relative positions: arXiv 1901.02860.
    """

    config: DEQTransformerConfig

    def __init__(self, config: DEQTransformerConfig):
        super().__init__()
        self.config = config
        bins = (config.n_token, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        self.word_emb = AdaptiveEmbedding(*bins)
        self.pos_emb = PositionalEmbedding(config.d_model)
        # Before the cell, though the cell says its width: the order of their random draws is that of published runs.
        self.inject_conv = nn.Conv1d(config.d_model, TransformerCell.injection_width(config.d_model), kernel_size=1)
        self.func = _cell(config)
        self.crit = ProjectedAdaptiveLogSoftmax(*bins)
        if config.tied:
            self.crit.tie(self.word_emb)

    @property
    def head(self) -> ProjectedAdaptiveLogSoftmax:
        """The adaptive softmax."""
        return self.crit

    @property
    def memory_length(self) -> int:
        """M, at most."""
        return self.config.mem_len

    def embedding_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the adaptive embedding; softmax weights that are tied to it are among them."""
        return self.word_emb.parameters()

    def hidden(self, tokens: Tensor, memory: Memory | tuple[Tensor, Tensor] | None, depth: Depth) -> Hidden:
        """The states (L, B, D) of one segment, after the output dropout and before; the memory for the next."""
        n_target, n_batch = tokens.shape
        memory = self._or_empty(memory, n_batch)
        injection = self._injection(tokens, memory)
        f, z0 = self._start(memory, injection)
        z, solve = depth(f, z0)
        by_channel = self.config.out_dropout == "channel"
        states = self._drop(z, (n_batch, 1, self.config.d_model) if by_channel else (n_batch, n_target, 1))
        return Hidden(states.transpose(0, 1), self._remember(memory, z, injection), solve, z.transpose(0, 1))

    def problem(self, tokens: Tensor, memory: Memory | tuple[Tensor, Tensor] | None) -> Problem:
        """f for tokens (L, B), and its start z = 0 (B, L, D)."""
        memory = self._or_empty(memory, tokens.shape[1])
        return self._start(memory, self._injection(tokens, memory))

    def with_config(self, config: DEQTransformerConfig) -> DEQTransformerLM:
        """A model of these parameters that remembers or looks back another length; the settings in REACH may differ.

        Raises:
            ValueError: another setting differs.
        """
        for field in fields(config):
            if field.name not in REACH and getattr(config, field.name) != getattr(self.config, field.name):
                raise ValueError(f"`{field.name}` belongs to the model's build: choose from {', '.join(REACH)}")
        return super().with_config(config)

    def _injection(self, tokens: Tensor, memory: Memory) -> Tensor:
        """u over memory and tokens (B, K, 3D)."""
        embedded = self._drop(self.word_emb(tokens.t().contiguous()), (tokens.shape[1], 1, self.config.d_model))
        injection = F.linear(embedded, self.inject_conv.weight.squeeze(2), self.inject_conv.bias)
        return torch.cat([memory.u, injection], dim=1)

    def _start(self, memory: Memory, injection: Tensor) -> Problem:
        n_batch, n_key, _ = injection.shape
        n_memory = memory.z.shape[1]
        positions = Positions(
            self._drop(self.pos_emb(n_key), (1, self.config.d_model)),
            visibility(n_key - n_memory, n_memory, self.config.horizon, memory.z),
        )
        context = self.func.context(memory.z, injection, positions)
        return Problem(CellMap(self.func, context), injection.new_zeros(n_batch, n_key - n_memory, self.config.d_model))

    def _drop(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return masked(x, variational_mask(shape, self.config.dropout, x, training=self.training))

    def _or_empty(self, memory: Memory | tuple[Tensor, Tensor] | None, n_batch: int) -> Memory:
        if memory is not None:
            return Memory(*memory)
        like, d_model = self.inject_conv.weight, self.config.d_model
        return Memory(like.new_zeros(n_batch, 0, d_model), like.new_zeros(n_batch, 0, self.func.d_injection))

    def _remember(self, memory: Memory, z: Tensor, injection: Tensor) -> Memory:
        """The last mem_len positions of [memory; z] and of u, detached: copies, as views would keep all alive."""
        n_keep = min(self.config.mem_len, injection.shape[1])
        first = injection.shape[1] - n_keep
        states = torch.cat([memory.z[:, first:], z.detach()[:, max(first - memory.z.shape[1], 0) :]], dim=1)
        return Memory(states, injection.detach()[:, first:].clone())


def _cell(config: DEQTransformerConfig) -> TransformerCell:
    attention = RelativeAttention(
        config.d_model,
        config.n_head,
        config.d_head,
        dropout=config.dropout,
        dropatt=config.dropatt,
        wnorm=config.wnorm,
    )
    feed_forward = PositionwiseFeedForward(config.d_model, config.d_inner, dropout=config.dropout, wnorm=config.wnorm)
    norm = "pre" if config.pre_lnorm else "post"
    return TransformerCell(attention, feed_forward, norm=norm, outer_norm=config.outer_norm)
