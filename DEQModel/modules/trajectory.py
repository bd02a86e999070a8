"""The loss over several iterates of a solve, which pulls the earlier ones towards the right answer too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .checks import SHARE, check_choice

# Weight of state k of n by γ; the last one, k = n - 1, has weight 1.
WEIGHTS: dict[str, Callable[[int, int, float], float]] = {
    "exponential": lambda n, k, gamma: gamma ** (n - 1 - k),
    "linear": lambda n, k, gamma: 1 - gamma * (n - 1 - k) / n,
    "constant": lambda n, k, gamma: 1.0,
}


def weighted_loss(
    loss: Callable[[Any], Tensor],
    states: Sequence[Any],
    *,
    weights: str | Sequence[float] | Callable[[int, int], float] = "exponential",
    gamma: float = 0.8,
) -> Tensor:
    """Σ_k w_k loss(z_k) over the states of a solve, in the order in which it reached them.

        z, info = deq(f, z0, iterates=3)
        weighted_loss(lambda z: criterion(head(z), target), [*info.iterates, z]).backward()

    Args:
        loss: from a state to a scalar.
        states: z_0 … z_{n-1}, the result last.
        weights: "exponential" for γ^(n-1-k), "linear" for 1 - γ (n-1-k) / n, "constant" for 1; or the numbers, or a
            function of n and k that gives them.
        gamma: γ in (0, 1].

    Raises:
        ValueError: no states, unknown weights, or not as many as states.

    Source: the correction losses of equilibrium optical flow, arXiv 2204.08442.
    """
    if not callable(loss) or not isinstance(states, Sequence):
        raise ValueError(f"`states` is a {type(states).__name__}: pass a loss, and a list of states")
    n = len(states)
    if not n:
        raise ValueError("`states` is empty: pass one or more")
    SHARE.check("gamma", gamma)
    if isinstance(weights, str):
        check_choice("weights", weights, WEIGHTS)
        weights = [WEIGHTS[weights](n, k, gamma) for k in range(n)]
    elif callable(weights):
        weights = [weights(n, k) for k in range(n)]
    if len(weights) != n:
        raise ValueError(f"`weights` are {len(weights)} for {n} states: pass as many")
    return sum(weight * loss(state) for weight, state in zip(weights, states, strict=True))
