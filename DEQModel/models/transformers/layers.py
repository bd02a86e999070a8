"""The cells that a configuration asks for: that of the equilibrium, and those of the layers around it."""

from __future__ import annotations

from torch import nn

from models.transformers.attention import RelativeAttention
from models.transformers.cell import TransformerCell
from models.transformers.cell_stack import CellStack
from models.transformers.config import DEQTransformerConfig
from models.transformers.feed_forward import PositionwiseFeedForward


def decoder_layer(config: DEQTransformerConfig) -> TransformerCell:
    """A layer without injection, to be applied once."""
    return _cell(config, inject=None)


def equilibrium_cell(config: DEQTransformerConfig) -> nn.Module:
    """f: a cell, or several in a row."""
    n = config.cell_layers
    further = None if config.inject == "residual" else "attention"
    injections = [config.inject, *[further] * (n - 1)]
    norms = [*[False] * (n - 1), config.outer_norm]
    feedback = [config.feedback, *[None] * (n - 1)]
    cells = [
        _cell(config, inject=inject, outer_norm=norm, feedback=gain)
        for inject, norm, gain in zip(injections, norms, feedback, strict=True)
    ]
    return CellStack(cells) if n > 1 else cells[0]


def _cell(
    config: DEQTransformerConfig, *, inject: str | None, outer_norm: bool = False, feedback: float | None = None
) -> TransformerCell:
    attention = RelativeAttention(
        config.d_model,
        config.n_head,
        config.d_head,
        dropout=config.dropout,
        dropatt=config.dropatt,
        wnorm=config.wnorm,
        heads_norm=config.heads_norm,
        norm_affine=config.norm_affine,
    )
    return TransformerCell(
        attention,
        PositionwiseFeedForward(config.d_model, config.d_inner, dropout=config.dropout, wnorm=config.wnorm),
        inject=inject,
        norm="pre" if config.pre_lnorm else "post",
        norm_affine=config.norm_affine,
        outer_norm=outer_norm,
        feedback=feedback,
    )
