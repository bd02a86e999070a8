"""Initial values of a language model's parameters, as its published results were started from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Initializer = Callable[[Tensor], Tensor]


def initializer(kind: str, *, std: float, half_width: float) -> Initializer:
    """Fills a tensor from N(0, std²) for "normal", from U(-half_width, half_width) for "uniform".

    Raises:
        ValueError: another kind.
    """
    choices: dict[str, Initializer] = {
        "normal": lambda tensor: nn.init.normal_(tensor, 0.0, std),
        "uniform": lambda tensor: nn.init.uniform_(tensor, -half_width, half_width),
    }
    if kind not in choices:
        raise ValueError(f"initialiser is {kind!r}: choose one of {', '.join(choices)}")
    return choices[kind]


@torch.no_grad()
def initialize(
    model: nn.Module,
    *,
    init: str,
    init_range: float,
    init_std: float,
    proj_init_std: float,
    emb_init: str,
    emb_init_range: float,
) -> None:
    """Draws every parameter anew, in place.

    Biases become 0, projections of the adaptive embedding and softmax N(0, proj_init_std²), embeddings follow
    `emb_init` (with init_std where normal) and all other weights `init`. Weights under weight normalisation
    (`weight_g`, `weight_v`) keep PyTorch's default values: published models were trained from those.

    Args:
        model: with the parameter names of the published state dicts.
        init, emb_init: "normal" or "uniform".
        init_range, emb_init_range: half-widths of the uniform ones.
        init_std, proj_init_std: standard deviations.
    """
    weight = initializer(init, std=init_std, half_width=init_range)
    embedding = initializer(emb_init, std=init_std, half_width=emb_init_range)
    projection = initializer("normal", std=proj_init_std, half_width=0.0)
    attention_biases = ("r_w_bias", "r_r_bias")  # biases of a query: learned vectors, drawn like weights
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        if kind in ("weight_g", "weight_v"):
            continue
        if kind.endswith("bias") and kind not in attention_biases:
            nn.init.zeros_(parameter)
        elif "emb_layers" in owner:
            embedding(parameter)
        elif "_projs" in owner:
            projection(parameter)
        else:
            weight(parameter)
