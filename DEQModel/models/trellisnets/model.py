"""The DEQ-TrellisNet language model.

Shape legend: B sequences, L positions, h = nhid + nout hidden channels, D = nout output channels, V words. Tokens and
targets come time first, (L, B), as the data's batches do; states are (B, L, 2h).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.protocol import CellMap, Head, Hidden, LanguageModel, Memory, Problem
from models.trellisnets.cell import TrellisCell
from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.convolution import CausalConvolution
from modules.depth import Depth
from modules.optimizations import masked, variational_mask
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax
from utils.softmax import MixtureOfSoftmaxes, Softmax

INJECTION_KERNEL = 2  # taps: a word and the one before it


class TrellisNet(nn.Module):
    """Injection and cell, under the names of the published state dicts.

    Args:
        config: shapes and settings.
    """

    def __init__(self, config: DEQTrellisNetConfig):
        super().__init__()
        self.func = TrellisCell(
            config.width,
            kernel=config.ksize,
            dilation=config.dilation,
            dropouth=config.dropouth,
            wdrop=config.wdrop,
            wnorm=config.wnorm,
        )
        self.inject_conv = CausalConvolution(
            config.d_input, self.func.d_injection, kernel=INJECTION_KERNEL, wnorm=config.wnorm
        )

    def problem(self, embedded: Tensor, memory: Tensor, word_before: Tensor | None = None) -> Problem:
        """f for embedded tokens (B, L, d_input), and its start z = 0 (B, L, 2h).

        Args:
            embedded: the tokens.
            memory: the state before them (B, 1, 2h).
            word_before: the embedded word before them (B, 1, d_input), None for zeros.
        """
        injection = self.inject_conv(embedded, word_before)
        context = self.func.context(memory, injection)
        return Problem(CellMap(self.func, context), injection.new_zeros(*injection.shape[:2], 2 * self.func.width))


class DEQTrellisNetLM(LanguageModel):
    """Embedding → injection u → z* = f(z*; u, memory) → the last channels of z*'s hidden part → softmax.

    The model keeps no state between calls: the memory, the state at the last position, goes in and comes out. At a
    segment's start the injection's first tap sees zeros, as in published training and evaluation; only that of
    `for_reading` remembers the last word too. Parameter names are those of the published state dicts.

    Args:
        config: shapes and settings.

    Source: arXiv 1909.01377, section 4; regularisation as in Merity et al., arXiv 1708.02182, section 4.
    """

    config: DEQTrellisNetConfig
    memory_length = 1
    remembers_word = False

    def __init__(self, config: DEQTrellisNetConfig):
        super().__init__()
        self.config = config
        self.trellisnet = TrellisNet(config)
        if config.adaptive:
            bins = (config.n_token, config.d_embed, config.nout, config.cutoffs, config.div_val)
            self.word_emb = AdaptiveEmbedding(*bins)
            self.crit = ProjectedAdaptiveLogSoftmax(*bins)
            if config.tied:
                self.crit.tie(self.word_emb)
            return
        self.encoder = nn.Embedding(config.n_token, config.d_embed)
        self.decoder = nn.Linear(config.d_embed if config.n_experts or config.tied else config.nout, config.n_token)
        if config.tied:
            self.decoder.weight = self.encoder.weight
        if config.n_experts:
            self.prior = nn.Linear(config.nout, config.n_experts, bias=False)
            self.latent = nn.Linear(config.nout, config.n_experts * config.d_embed)

    @property
    def head(self) -> Head:
        """The adaptive softmax, a mixture of softmaxes, or a single one."""
        if self.config.adaptive:
            return self.crit
        if self.config.n_experts:
            return MixtureOfSoftmaxes(
                self.prior, self.latent, self.decoder, dropout=self.config.dropoutl, training=self.training
            )
        return Softmax(self.decoder)

    def embedding_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the word embedding; softmax weights that are tied to it are among them."""
        return (self.word_emb if self.config.adaptive else self.encoder).parameters()

    def hidden(self, tokens: Tensor, memory: Memory | None, depth: Depth) -> Hidden:
        """The output (L, B, D) of a segment, after its dropout and before; its last state (B, 1, 2h) as memory.

        Of the model `for_reading` the memory is a pair: that state, and the last word as the injection sees it
        (B, 1, d_input).
        """
        embedded = self._embedded(tokens.t())
        z, solve = depth(*self._problem(embedded, memory))
        output = z[:, :, self.config.nhid : self.config.width].transpose(0, 1)
        mask = self._mask((1, tokens.shape[1], self.config.nout), self.config.dropout, z)
        state = _last(z)
        next_memory = (state, _last(embedded)) if self.remembers_word else state
        return Hidden(masked(output, mask), next_memory, solve, output)

    def problem(self, tokens: Tensor, memory: Memory | None) -> Problem:
        """f for tokens (L, B), and its start z = 0."""
        return self._problem(self._embedded(tokens.t()), memory)

    def for_reading(self) -> DEQTrellisNetLM:
        """A model of these parameters whose injection sees the word before a segment, as it does within one."""
        other = copy.copy(self)  # its tensors and submodules are this one's
        other.remembers_word = True
        return other

    def _problem(self, embedded: Tensor, memory: Memory | None) -> Problem:
        if memory is None:
            return self.trellisnet.problem(embedded, embedded.new_zeros(len(embedded), 1, 2 * self.config.width))
        state, word = memory if self.remembers_word else (memory, None)
        return self.trellisnet.problem(embedded, state, word)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, d_input), without the words that are dropped."""
        config = self.config
        embedded = self.word_emb(tokens.contiguous()) if config.adaptive else self.encoder(tokens)
        words = self._mask((config.n_token, 1), config.emb_dropout, embedded)
        if words is not None:
            embedded = embedded * words[tokens]
        return masked(embedded, self._mask((len(embedded), 1, config.d_input), config.dropouti, embedded))

    def _mask(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor | None:
        return variational_mask(shape, rate, like, training=self.training)


def _last(x: Tensor) -> Tensor:
    """The last position (B, 1, *) of x (B, L, *), detached: a copy, as a view would keep the whole segment alive."""
    return x[:, -1:].detach().clone()


@torch.no_grad()
def initialise_parameters(model: DEQTrellisNetLM) -> None:
    """Draw the parameters that published results were started from in their own way.

    The convolution N(0, 0.01²), under weight normalisation the direction with g its norm; word vectors and softmax
    U(-0.1, 0.1), the softmax's bias 0. An adaptive embedding and softmax, and all else, are as they were made.
    """
    model.trellisnet.func.full_conv.draw_small()
    if not model.config.adaptive:
        nn.init.uniform_(model.encoder.weight, -0.1, 0.1)
        if not model.config.tied:
            nn.init.uniform_(model.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(model.decoder.bias)
