"""PyTorch's recurrent networks as language models."""

from __future__ import annotations

from torch import Tensor, nn

from synthetic.explicit import ExplicitLM

CELLS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentLM(ExplicitLM):
    """An LSTM or a GRU of one layer or more.

    Args:
        kind: a key of `CELLS`.
        n_token, d_embed: V, and the width of the embedding.
        d_model: width of the states.
        n_layer: number of layers.
    """

    def __init__(self, kind: str, n_token: int, *, d_embed: int, d_model: int, n_layer: int):
        super().__init__(n_token, d_embed, d_model)
        self.layers = CELLS[kind](d_embed, d_model, n_layer)

    def states(self, embedded: Tensor) -> Tensor:
        """(L, B, d_embed) -> (L, B, D)."""
        return self.layers(embedded)[0]
