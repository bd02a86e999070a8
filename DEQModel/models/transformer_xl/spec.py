"""The Transformer-XL as the training recipe knows it."""

from typing import Any

import torch
from torch import nn

from models.configuration import configured
from models.protocol import ModelSpec
from models.transformer_xl.config import TransformerXLConfig, TransformerXLFlags
from models.transformer_xl.cost import transformer_xl_cost
from models.transformer_xl.model import TransformerXLLM
from models.transformer_xl.weights import TransformerXLWeights
from models.transformers import spec as transformers


def configure(settings: Any, n_token: int) -> TransformerXLConfig:
    """The configuration that settings and a vocabulary come to."""
    transformers.check_attention(settings)
    return configured(TransformerXLConfig, settings, n_token)


@torch.no_grad()
def initialise(model: TransformerXLLM, settings: Any) -> None:
    """Draw every parameter anew; the scales of the layer norms are N(1, init_std²), as published."""
    transformers.draw(model, settings)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, settings.init_std)


SPEC = ModelSpec(
    name="Transformer-XL",
    program="train_transformer.py",
    flags=TransformerXLFlags,
    resolve=transformers.resolve,
    configure=configure,
    build=TransformerXLLM,
    initialise=initialise,
    weights=TransformerXLWeights(),
    is_equilibrium=False,
    cost=transformer_xl_cost,
)
