"""An explicit Transformer-XL: distinct layers one after the other, of the cells that the DEQ-Transformer repeats."""

from __future__ import annotations

from torch import Tensor, nn

from models.transformers.attention import Positions, RelativeAttention, visibility
from models.transformers.cell import TransformerCell
from models.transformers.feed_forward import PositionwiseFeedForward
from synthetic.explicit import ExplicitLM
from utils.positional_embedding import PositionalEmbedding


class TransformerStack(ExplicitLM):
    """z = f_N(… f_1(embedding)), post-norm layers without injection.

    Args:
        n_token: V.
        n_layer: N.
        d_model, n_head, d_inner: D, number of heads, width of the feed-forward layers.
        tied: embedding and softmax share their weights.
    """

    def __init__(self, n_token: int, *, n_layer: int, d_model: int, n_head: int, d_inner: int, tied: bool):
        super().__init__(n_token, d_model, d_model, tied=tied)
        self.pos_emb = PositionalEmbedding(d_model)
        self.cells = nn.ModuleList(_cell(d_model, n_head, d_inner) for _ in range(n_layer))

    def states(self, embedded: Tensor) -> Tensor:
        """(L, B, D) -> (L, B, D)."""
        z = embedded.transpose(0, 1)
        n_batch, n_position, _ = z.shape
        positions = Positions(self.pos_emb(n_position), visibility(n_position, 0, 0, z))
        no_memory = z.new_zeros(n_batch, 0, self.d_model)
        for cell in self.cells:
            no_injection = z.new_zeros(n_batch, n_position, cell.d_injection)
            z = cell(z, cell.context(no_memory, no_injection, positions))
        return z.transpose(0, 1)


def _cell(d_model: int, n_head: int, d_inner: int) -> TransformerCell:
    attention = RelativeAttention(d_model, n_head, d_model // n_head, dropout=0.0, dropatt=0.0, wnorm=False)
    return TransformerCell(attention, PositionwiseFeedForward(d_model, d_inner, dropout=0.0, wnorm=False))
