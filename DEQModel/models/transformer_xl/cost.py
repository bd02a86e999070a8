"""What a Transformer-XL costs. Shape legend: B sequences, L positions, M of the memory, K = M + L, D = d_model."""

from __future__ import annotations

from models.cost import ModelCost, Segment
from models.transformer_xl.config import TransformerXLConfig
from models.transformers.layer_cost import DecoderLayer
from modules.cost import Piece
from utils.cost import adaptive_embedding, adaptive_softmax, dropped, tied_tables


def transformer_xl_cost(config: TransformerXLConfig, segment: Segment) -> ModelCost:
    """Of a segment whose memory is full: each layer has (B, M, D) of it; all see the same positions (K, D)."""
    n_tokens, d_model = segment.n_tokens, config.d_model
    bins = (n_tokens, config.n_token, config.d_embed, d_model, config.cutoffs, config.div_val)
    drop = dropped(n_tokens * d_model) if segment.training and config.dropout > 0 else Piece()
    layer = DecoderLayer(config, segment, norm_affine=True, own_masks=True)
    positions = Piece(kept=(config.mem_len + segment.n_position) * d_model)
    tied = tied_tables(config.n_token, config.d_embed, config.cutoffs, config.div_val) if config.tied else Piece()
    return ModelCost(
        segment=segment,
        embedding=adaptive_embedding(*bins) + drop,
        head=adaptive_softmax(*bins, segment.shares) + drop + tied,
        memory=segment.n_batch * config.mem_len * config.n_layer * d_model,
        layers=config.n_layer * layer.once() + positions,
    )
