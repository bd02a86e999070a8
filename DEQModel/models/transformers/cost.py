"""What a DEQ-Transformer costs. Shape legend as in `layer_cost.py`."""

from __future__ import annotations

from functools import reduce

from models.cost import ModelCost, Segment
from models.transformers.cell import INJECTIONS
from models.transformers.config import DEQTransformerConfig
from models.transformers.layer_cost import DecoderLayer
from models.transformers.layers import PLAIN, CellChoices, choices_of
from modules.cost import Application, Piece, passes, product
from utils.cost import adaptive_embedding, adaptive_softmax, masked, tied_tables


def transformer_cost(config: DEQTransformerConfig, segment: Segment) -> ModelCost:
    """Of a segment whose memory is full."""
    n_tokens, d_model = segment.n_tokens, config.d_model
    bins = (n_tokens, config.n_token, config.d_embed, d_model, config.cutoffs, config.div_val)
    drop = masked(n_tokens * d_model) if segment.training and config.dropout > 0 else Piece()
    n_layer = config.layers_before + config.layers_after
    cells = [_layer(config, segment, choices) for choices in choices_of(config)]
    remembered = d_model * (1 + INJECTIONS[config.inject] + n_layer)  # z, u, and what each layer read
    tied = tied_tables(config.n_token, config.d_embed, config.cutoffs, config.div_val) if config.tied else Piece()
    return ModelCost(
        segment=segment,
        embedding=adaptive_embedding(*bins) + drop,
        head=adaptive_softmax(*bins, segment.shares) + drop + tied,
        memory=segment.n_batch * config.mem_len * remembered,
        layers=n_layer * _layer(config, segment, PLAIN).once(),
        context=sum((cell.context() for cell in cells), start=_injection(config, segment)),
        f=reduce(_then, (cell.application() for cell in cells)),
        start_is_constant=config.z_init != "injection",
    )


def _layer(config: DEQTransformerConfig, segment: Segment, choices: CellChoices) -> DecoderLayer:
    return DecoderLayer(
        config,
        segment,
        injected=choices.inject in ("attention", "both"),
        added=choices.inject in ("residual", "both"),
        gains=choices.feedback is not None,
        norm_affine=config.norm_affine,
        heads_norm=config.heads_norm,
        outer_norm=choices.outer_norm,
        wnorm=config.wnorm,
    )


def _then(first: Application, second: Application) -> Application:
    return second.after(first)


def _injection(config: DEQTransformerConfig, segment: Segment) -> Piece:
    """Once a solve (B·L, D) × (D, d_injection), whose gradient goes to the weight and to the embedded words.

    It is joined to the memory's (2 passes). The norm of what is added to the state (2) takes that out of the whole and
    puts it in again (2); its gradient is 3, and 2 to scale and bias.
    """
    d_model, d_injection = config.d_model, INJECTIONS[config.inject] * config.d_model
    n_key = config.mem_len + segment.n_position
    injection = product(segment.n_tokens, d_model, d_injection)
    kept = segment.n_tokens * d_model + n_key * d_model  # the words, and the positions
    whole = Piece(injection + passes(segment.n_batch * n_key * d_injection, 2, 1), 2 * injection, kept)
    if config.inject_norm:
        states, joined = segment.n_tokens * d_model, segment.n_tokens * d_injection
        whole += Piece(
            passes(states, 2, 1) + passes(joined, 2, 1), passes(states, 3 + 2, 1) + passes(joined, 2, 1), joined
        )
    return whole
