"""The states of the generators that dropout and random thresholds draw from."""

import torch
from torch import Tensor


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Of the CPU, and of `device` where that is a GPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on from `states`; a generator that has none there goes on as it is."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
