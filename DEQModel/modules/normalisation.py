"""Weight and spectral normalisation of whole models, put on and taken off with one call each.

They are PyTorch's parametrizations. `DEQModule` computes such weights once in a solve, not at every evaluation, and
once for the application that gradients flow through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrizations, parametrize

from .checks import check_choice

NORMALISATIONS: dict[str, Callable[..., nn.Module]] = {
    "weight": parametrizations.weight_norm,
    "spectral": parametrizations.spectral_norm,
}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def normalise(model: nn.Module, how: str, *, without: str | Iterable[str] = (), **options: Any) -> list[str]:
    """Normalises the weights of a model's linear and convolutional layers, in place.

    The values of the weights stay as they are under "weight": W = g v / ‖v‖ begins with g = ‖W‖, one norm per output
    channel. Under "spectral" they are divided by their largest singular value, found by power iteration: a step of it
    whenever the weights are computed in training mode. An optimizer is to be made after this, as there are other
    parameters then.

    Args:
        model: the model, or a part of it.
        how: "weight" (arXiv 1602.07868) or "spectral" (arXiv 1802.05957).
        without: a part of names, or several; layers whose name has one of them are left as they are.
        options: of `torch.nn.utils.parametrizations.weight_norm` or `spectral_norm`, as `n_power_iterations`.

    Returns:
        The names of the weights that are normalised now.

    Raises:
        ValueError: another normalisation, no such layer, one that is normalised already or has no weight yet, or
            weights that layers share.
    """
    check_choice("how", how, NORMALISATIONS)
    without = (without,) if isinstance(without, str) else tuple(without)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, KINDS) and not any(part in name for part in without)
    }
    if not layers:
        raise ValueError("`model` has no linear or convolutional layer to normalise")
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"{name or 'the layer'} has a parametrized weight already: call `plain` first")
        if isinstance(layer.weight, UninitializedParameter):
            raise ValueError(f"{name}.weight has no shape yet: run the model once first")
    if len({id(layer.weight) for layer in layers.values()}) < len(layers):
        raise ValueError("layers of `model` share a weight, which this would part: leave them out, with `without`")
    for layer in layers.values():
        # transposed convolutions have their output channels second; "spectral" knows that itself
        own = {"dim": 1} if how == "weight" and isinstance(layer, TRANSPOSED) else {}
        NORMALISATIONS[how](layer, "weight", **own | options)
    return [f"{name}.weight".lstrip(".") for name in layers]


def plain(model: nn.Module) -> list[str]:
    """Takes all parametrizations off a model's weights, which keep their values and are parameters again.

    Returns:
        The names of the weights.
    """
    found = []
    for name, layer in list(model.named_modules()):
        if parametrize.is_parametrized(layer):
            for weight in list(layer.parametrizations):
                parametrize.remove_parametrizations(layer, weight, leave_parametrized=True)
                found.append(f"{name}.{weight}".lstrip("."))
    return found
