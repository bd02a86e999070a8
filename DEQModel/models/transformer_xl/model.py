"""The Transformer-XL language model: distinct layers, each with a memory of its own.

Shape legend: B sequences, L target positions, M memory positions, K = M + L, D = d_model, N layers. Tokens and targets
come time first, (L, B); states are (B, L, D).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from models.protocol import Hidden, LanguageModel
from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.layer import Attention, FeedForward, Layer, Surroundings
from models.transformers.attention import visibility
from modules.depth import Depth
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax
from utils.positional_embedding import PositionalEmbedding


class TransformerXLLM(LanguageModel):
    """z_0 = embedding, z_i = layer_i(z_{i-1}; memory_i), softmax(z_N).

    The memory goes in and comes out: for each layer its inputs at the last positions, N tensors (B, M, D). Parameter
    names are those of the published state dicts.

    Args:
        config: shapes and settings.

    Source: Dai et al., Transformer-XL, arXiv 1901.02860.
    """

    config: TransformerXLConfig
    reach = ("mem_len", "clamp_len", "same_length")

    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        self.config = config
        bins = (config.n_token, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        self.word_emb = AdaptiveEmbedding(*bins)
        self.pos_emb = PositionalEmbedding(config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.r_w_bias = nn.Parameter(torch.zeros(config.n_head, config.d_head))  # of all layers, as published
        self.r_r_bias = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.n_layer))
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

    def hidden(self, tokens: Tensor, memory: Sequence[Tensor] | None, depth: Depth) -> Hidden:
        """The states (L, B, D) of one segment, after the output dropout and before; the memory for the next.

        The model is as deep as it is built: `depth` changes nothing.
        """
        z = self.drop(self.word_emb(tokens.t().contiguous()))  # (B, L, D)
        before = memory if memory is not None else [z.new_zeros(len(z), 0, self.config.d_model)] * len(self.layers)
        surroundings = self._surroundings(z.shape[1], before[0].shape[1], z)
        inputs = []
        for layer, remembered in zip(self.layers, before, strict=True):
            inputs.append(z)
            z = layer(z, remembered, surroundings)
        after = tuple(map(self._remember, before, inputs))
        return Hidden(self.drop(z).transpose(0, 1), after, None, z.transpose(0, 1))

    def _surroundings(self, n_query: int, n_memory: int, like: Tensor) -> Surroundings:
        return Surroundings(
            self.drop(self._positions(n_memory + n_query)),
            visibility(n_query, n_memory, self.config.horizon, like),
            self.r_w_bias,
            self.r_r_bias,
        )

    def _positions(self, n_key: int) -> Tensor:
        """(K, D); keys that are further away than `clamp_len` have the embedding of that distance."""
        longest = self.config.clamp_len
        if longest < 0 or n_key <= longest + 1:
            return self.pos_emb(n_key)
        near = self.pos_emb(longest + 1)
        return torch.cat([near[:1].expand(n_key - len(near), -1), near])

    def _remember(self, memory: Tensor, inputs: Tensor) -> Tensor:
        """The last mem_len positions of [memory; a layer's inputs], detached."""
        n_keep = min(self.config.mem_len, memory.shape[1] + inputs.shape[1])
        both = torch.cat([memory, inputs.detach()], dim=1)
        return both[:, both.shape[1] - n_keep :]


def _layer(config: TransformerXLConfig) -> Layer:
    attention = Attention(
        config.d_model,
        config.n_head,
        config.d_head,
        dropout=config.dropout,
        dropatt=config.dropatt,
        pre_lnorm=config.pre_lnorm,
    )
    feed_forward = FeedForward(config.d_model, config.d_inner, dropout=config.dropout, pre_lnorm=config.pre_lnorm)
    return Layer(attention, feed_forward)
