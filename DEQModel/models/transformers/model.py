"""The DEQ-Transformer language model.

Shape legend: B sequences, L target positions, M memory positions, K = M + L, D = d_model. Tokens and targets come
time first, (L, B), as the data's batches do; states are (B, L, D).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import CellMap, EquilibriumModel, Hidden, Problem
from models.transformers.attention import Positions, visibility
from models.transformers.cell import TransformerCell
from models.transformers.config import DEQTransformerConfig
from models.transformers.layers import decoder_layer, equilibrium_cell
from models.transformers.norm import layer_norm
from models.transformers.starts import STARTS
from modules.depth import Depth
from modules.optimizations import masked, variational_mask
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax
from utils.positional_embedding import PositionalEmbedding


class Memory(NamedTuple):
    """What a segment hands to the next one, detached: states and injection of the last positions."""

    z: Tensor  # (B, M, D)
    u: Tensor  # (B, M, d_injection)


class LayeredMemory(NamedTuple):
    """The same of a model with N layers around its equilibrium."""

    z: Tensor  # (B, M, D)
    u: Tensor  # (B, M, d_injection)
    layers: Tensor  # (B, M, N·D), what each of them read, side by side


AnyMemory = Memory | LayeredMemory | tuple[Tensor, ...]


class Segment(NamedTuple):
    """What is known of a segment before its equilibrium is solved for."""

    injection: Tensor  # (B, L, d_injection)
    positions: Positions
    memory: Memory | LayeredMemory
    memory_of_layers: Sequence[Tensor]  # (B, M, D) each, of the layers before and after
    read: Sequence[Tensor]  # (B, L, D) each, by the layers before


class DEQTransformerLM(EquilibriumModel):
    """Embedding → injection u → z* = f(z*; u, memory) → adaptive softmax.

    There may be ordinary decoder layers before the injection and after z*, which are applied once.

    The model keeps no state between calls: the memory goes in and comes out. Parameter names are those of the published
    state dicts.

    Args:
        config: shapes and settings.

    Source: arXiv 1909.01377, section 4; memory and relative positions: arXiv 1901.02860.
    """

    config: DEQTransformerConfig
    reach = ("mem_len", "local_size", "same_length", "z_init")

    def __init__(self, config: DEQTransformerConfig):
        super().__init__()
        self.config = config
        bins = (config.n_token, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        self.word_emb = AdaptiveEmbedding(*bins)
        self.pos_emb = PositionalEmbedding(config.d_model)
        # Before the cell, though the cell says its width: the order of their random draws is that of published runs.
        injection_width = TransformerCell.injection_width(config.d_model, config.inject)
        self.inject_conv = nn.Conv1d(config.d_model, injection_width, kernel_size=1)
        self.inject_norm = layer_norm(config.d_model, affine=True) if config.inject_norm else None
        self.func = equilibrium_cell(config)
        self.crit = ProjectedAdaptiveLogSoftmax(*bins)
        if config.tied:
            self.crit.tie(self.word_emb)
        self.layers_before = nn.ModuleList(decoder_layer(config) for _ in range(config.layers_before))
        self.layers_after = nn.ModuleList(decoder_layer(config) for _ in range(config.layers_after))

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

    def hidden(self, tokens: Tensor, memory: AnyMemory | None, depth: Depth) -> Hidden:
        """The states (L, B, D) of one segment, after the output dropout and before; the memory for the next."""
        segment = self._segment(tokens, memory)
        z, solve = depth(*self._start(segment))
        remembered = segment.memory_of_layers[len(self.layers_before) :]
        states, read = _through(self.layers_after, z, remembered, segment.positions)
        dropped = self._drop(states, self._output_mask(*tokens.shape))
        new = (z, segment.injection, *([torch.cat([*segment.read, *read], dim=2)] if self._has_layers else []))
        return Hidden(dropped.transpose(0, 1), self._remember(segment.memory, new), solve, states.transpose(0, 1))

    def problem(self, tokens: Tensor, memory: AnyMemory | None) -> Problem:
        """f for tokens (L, B), and its start (B, L, D)."""
        return self._start(self._segment(tokens, memory))

    def _segment(self, tokens: Tensor, memory: AnyMemory | None) -> Segment:
        """What comes before the equilibrium."""
        n_target, n_batch = tokens.shape
        memory = self._or_empty(memory, n_batch)
        n_memory = memory.z.shape[1]
        x = self._drop(self.word_emb(tokens.t().contiguous()), (n_batch, 1, self.config.d_model))
        positions = Positions(
            self._drop(self.pos_emb(n_memory + n_target), (1, self.config.d_model)),
            visibility(n_target, n_memory, self.config.horizon, memory.z),
        )
        of_layers = memory.layers.split(self.config.d_model, dim=2) if self._has_layers else ()
        x, read = _through(self.layers_before, x, of_layers[: len(self.layers_before)], positions)
        return Segment(self._injection(x), positions, memory, of_layers, read)

    def _injection(self, x: Tensor) -> Tensor:
        """u (B, L, d_injection) of what the layers before make of the words (B, L, D)."""
        u = F.linear(x, self.inject_conv.weight.squeeze(2), self.inject_conv.bias)
        if self.inject_norm is None:
            return u
        to_attention, to_state = u.split([u.shape[2] - self.config.d_model, self.config.d_model], dim=2)
        return torch.cat([to_attention, self.inject_norm(to_state)], dim=2)

    def _start(self, segment: Segment) -> Problem:
        memory = segment.memory
        context = self.func.context(memory.z, torch.cat([memory.u, segment.injection], dim=1), segment.positions)
        return Problem(CellMap(self.func, context), STARTS[self.config.z_init](memory.z, segment.injection))

    @property
    def _has_layers(self) -> bool:
        return len(self.layers_before) + len(self.layers_after) > 0

    def _output_mask(self, n_target: int, n_batch: int) -> tuple[int, int, int]:
        by_channel = self.config.out_dropout == "channel"
        return (n_batch, 1, self.config.d_model) if by_channel else (n_batch, n_target, 1)

    def _drop(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return masked(x, variational_mask(shape, self.config.dropout, x, training=self.training))

    def _or_empty(self, memory: AnyMemory | None, n_batch: int) -> Memory | LayeredMemory:
        kind = LayeredMemory if self._has_layers else Memory
        if memory is not None:
            return kind(*memory)
        n_layer = len(self.layers_before) + len(self.layers_after)
        widths = (self.config.d_model, self.func.d_injection, n_layer * self.config.d_model)
        return kind(*(self.inject_conv.weight.new_zeros(n_batch, 0, width) for width in widths[: len(kind._fields)]))

    def _remember(self, memory: Memory | LayeredMemory, new: tuple[Tensor, ...]) -> Memory | LayeredMemory:
        """The last mem_len positions of [memory; new], detached: copies, as views would keep all alive."""
        n_memory = memory.z.shape[1]
        n_key = n_memory + new[0].shape[1]
        first = n_key - min(self.config.mem_len, n_key)
        parts = (
            torch.cat([old[:, first:], of_segment.detach()[:, max(first - n_memory, 0) :]], dim=1)
            for old, of_segment in zip(memory, new, strict=True)
        )
        return type(memory)(*parts)


def _through(
    layers: Iterable[TransformerCell], x: Tensor, memories: Sequence[Tensor], positions: Positions
) -> tuple[Tensor, list[Tensor]]:
    """x (B, L, D) through decoder layers, each with its memory (B, M, D): what comes out, and what each layer read."""
    read = []
    for layer, memory in zip(layers, memories, strict=True):
        read.append(x)
        x = layer(x, layer.context(memory, None, positions))
    return x, read
