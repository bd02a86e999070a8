"""Models without an equilibrium, to compare with: they go as deep as they are built, whatever depth is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from models.protocol import Hidden, LanguageModel, Memory, Problem
from modules.depth import Depth
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax


class ExplicitLM(LanguageModel):
    """Embedding → layers → softmax; nothing is remembered from one segment to the next.

    Args:
        n_token: V.
        d_embed: width of the embedding.
        d_model: D, width of the states.
        tied: embedding and softmax share their weights; the two widths are then equal.
    """

    memory_length = 0

    def __init__(self, n_token: int, d_embed: int, d_model: int, *, tied: bool = False):
        super().__init__()
        self.d_model = d_model
        self.word_emb = AdaptiveEmbedding(n_token, d_embed, d_embed)
        self.head = ProjectedAdaptiveLogSoftmax(n_token, d_model, d_model)
        if tied:
            self.head.tie(self.word_emb)
        else:
            nn.init.normal_(self.word_emb.emb_layers[0].weight, std=d_embed**-0.5)  # the embedding scales by √d_embed

    @abstractmethod
    def states(self, embedded: Tensor) -> Tensor:
        """The layers: (L, B, d_embed) -> (L, B, D)."""

    def hidden(self, tokens: Tensor, memory: Memory | None, depth: Depth) -> Hidden:
        """The states (L, B, D) of one segment; memory and depth change nothing."""
        states = self.states(self.word_emb(tokens))
        return Hidden(states, (), None, states)

    def problem(self, tokens: Tensor, memory: Memory | None) -> Problem:
        """The map that is constant, at the states."""
        states = self.states(self.word_emb(tokens)).transpose(0, 1)
        return Problem(lambda z: states, states.new_zeros(states.shape))

    def embedding_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the word embedding."""
        return self.word_emb.parameters()
