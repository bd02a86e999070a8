"""The DEQ-Transformer as the training recipe knows it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.bins import resolved_cutoffs
from models.configuration import configured
from models.protocol import ModelSpec
from models.transformers.config import DEQTransformerConfig, DEQTransformerFlags
from models.transformers.cost import transformer_cost
from models.transformers.initialisation import initialise_parameters, pass_on_the_input
from models.transformers.model import DEQTransformerLM
from models.transformers.weights import DEQTransformerWeights

INITIALISATION = ("init", "init_range", "init_std", "proj_init_std", "emb_init", "emb_init_range")


def resolve(settings: Any) -> Mapping[str, Any]:
    """d_embed and cutoffs, whose defaults rest on other settings."""
    d_embed = settings.d_model if settings.d_embed == -1 else settings.d_embed
    return {**resolved_cutoffs(settings), "d_embed": d_embed}


def check_attention(settings: Any) -> None:
    """Refuse another kind of attention than there is.

    Raises:
        ValueError: with the setting in backticks.
    """
    if settings.attn_type != 0:
        raise ValueError(f"`attn_type` is {settings.attn_type}: only 0 (relative positions) exists, leave it out")


def configure(settings: Any, n_token: int) -> DEQTransformerConfig:
    """The configuration that settings and a vocabulary come to."""
    check_attention(settings)
    return configured(DEQTransformerConfig, settings, n_token)


def draw(model: nn.Module, settings: Any) -> None:
    """Draw every parameter anew."""
    initialise_parameters(model, **{name: getattr(settings, name) for name in INITIALISATION})


def initialise(model: DEQTransformerLM, settings: Any) -> None:
    """Draw every parameter anew."""
    draw(model, settings)
    if model.config.inject != "attention":
        pass_on_the_input(model)


SPEC = ModelSpec(
    name="DEQ-Transformer",
    program="train_transformer.py",
    flags=DEQTransformerFlags,
    resolve=resolve,
    configure=configure,
    build=DEQTransformerLM,
    initialise=initialise,
    weights=DEQTransformerWeights(),
    cost=transformer_cost,
)
