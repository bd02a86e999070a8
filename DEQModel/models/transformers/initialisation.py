"""Initial values of a DEQ-Transformer's parameters, as its published results were started from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.checks import check_choice

INITIALISERS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    # of a tensor, from a standard deviation and a half-width
    "normal": lambda tensor, std, half_width: nn.init.normal_(tensor, 0.0, std),
    "uniform": lambda tensor, std, half_width: nn.init.uniform_(tensor, -half_width, half_width),
}


@torch.no_grad()
def pass_on_the_input(model: nn.Module) -> None:
    """What is added to the state of a DEQ-Transformer begins as the embedded input itself."""
    nn.init.dirac_(model.inject_conv.weight[-model.config.d_model :])


@torch.no_grad()
def initialise_parameters(
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

    Biases become 0, learned scales of layer norms 1, projections of the adaptive embedding and softmax
    N(0, proj_init_std²), embeddings follow `emb_init` (with init_std where normal) and all other weights `init`.
    Weights under weight normalisation (`weight_g`, `weight_v`) keep PyTorch's default values: published models were
    trained from those. Feedback gains keep theirs.

    Args:
        model: with the parameter names of the published state dicts.
        init, emb_init: keys of `INITIALISERS`.
        init_range, emb_init_range: half-widths of the uniform ones.
        init_std, proj_init_std: standard deviations.
    """

    check_choice("init", init, INITIALISERS)
    check_choice("emb_init", emb_init, INITIALISERS)

    def weight(tensor: Tensor) -> None:
        INITIALISERS[init](tensor, init_std, init_range)

    def embedding(tensor: Tensor) -> None:
        INITIALISERS[emb_init](tensor, init_std, emb_init_range)

    def projection(tensor: Tensor) -> None:
        nn.init.normal_(tensor, 0.0, proj_init_std)

    attention_biases = ("r_w_bias", "r_r_bias")  # biases of a query: learned vectors, drawn like weights
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        if kind in ("weight_g", "weight_v", "feedback"):
            continue
        if kind.endswith("bias") and kind not in attention_biases:
            nn.init.zeros_(parameter)
        elif owner.endswith("norm"):
            nn.init.ones_(parameter)
        elif "emb_layers" in owner:
            embedding(parameter)
        elif "_projs" in owner:
            projection(parameter)
        else:
            weight(parameter)
