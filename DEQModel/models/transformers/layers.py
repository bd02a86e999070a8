"""The cells that a configuration asks for: that of the equilibrium, and those of the layers around it."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from models.transformers.attention import RelativeAttention
from models.transformers.cell import TransformerCell
from models.transformers.cell_stack import CellStack
from models.transformers.config import DEQTransformerConfig
from models.transformers.feed_forward import PositionwiseFeedForward


class CellChoices(NamedTuple):
    """What cells of one model may differ in; arguments of `TransformerCell`."""

    inject: str | None = None
    outer_norm: bool = False
    feedback: float | None = None


PLAIN = CellChoices()  # an ordinary decoder layer


def choices_of(config: DEQTransformerConfig) -> list[CellChoices]:
    """Those of the equilibrium's cells, in their order: the state enters the first and leaves the last."""
    n = config.cell_layers
    further = None if config.inject == "residual" else "attention"
    return [
        CellChoices(
            inject=config.inject if i == 0 else further,
            outer_norm=config.outer_norm and i == n - 1,
            feedback=config.feedback if i == 0 else None,
        )
        for i in range(n)
    ]


def decoder_layer(config: DEQTransformerConfig) -> TransformerCell:
    """A layer without injection, to be applied once."""
    return _cell(config, PLAIN)


def equilibrium_cell(config: DEQTransformerConfig) -> nn.Module:
    """f: a cell, or several in a row."""
    cells = [_cell(config, choices) for choices in choices_of(config)]
    return CellStack(cells) if len(cells) > 1 else cells[0]


def _cell(config: DEQTransformerConfig, choices: CellChoices) -> TransformerCell:
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
        norm="pre" if config.pre_lnorm else "post",
        norm_affine=config.norm_affine,
        **choices._asdict(),
    )
