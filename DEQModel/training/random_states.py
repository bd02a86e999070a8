"""The states of the generators that dropout and random thresholds draw from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from system.distributed import World


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


class RandomStates:
    """The generators of all processes, as a part of a run's state.

    Args:
        seed: of the run.
        device: of this process.
        world: the processes.
    """

    ENTRIES = ("random",)

    def __init__(self, seed: int, device: torch.device, world: World):
        self.seed, self.device, self.world = seed, device, world

    def state(self) -> dict[str, Any]:
        """For a checkpoint; all processes take part, and the first one has the result."""
        return {"random": self.world.gather(random_states(self.device))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, where it has one for each process and the seed is still the same; else from the seed."""
        states, rank = state["random"], self.world.rank
        if self.seed == state["settings"]["seed"] and len(states) == self.world.size:
            restore_random_states(states[rank], self.device)
            return
        (seed,) = np.random.SeedSequence((self.seed, state["step"], rank)).generate_state(1)
        torch.manual_seed(int(seed))
