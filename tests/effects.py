"""What runs differ in: losses, rates, steps and weights, as they left them."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tiny_run import COMMAND, Outcome

from evaluation.trained_model import make_model

EMBEDDING, INJECTION = "word_emb.emb_layers.0.weight", "inject_conv.weight"


@dataclass(frozen=True)
class Effect:
    """A flag's effect: `check(before, after)` of the runs with `base` and with `base + change`."""

    change: str
    check: Callable[[Outcome, Outcome], bool]
    base: str = ""


def learned_otherwise(one: Outcome, other: Outcome) -> bool:
    """The same parameters with other values, and a different result."""
    a, b = one.weights, other.weights
    same_shapes = {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    return same_shapes and not one.same_weights(other) and loss(one) != loss(other)


def loss(outcome: Outcome) -> float:
    return outcome.results["test"]["loss"]


def rates(outcome: Outcome) -> list[float]:
    """Learning rates of the log lines."""
    return [float(rate) for rate in re.findall(r" step .* lr (\S+) ", outcome.log)]


def validations(outcome: Outcome) -> list[str]:
    """Losses of the validations."""
    return re.findall(r" valid loss (\S+)", outcome.log)


def logged_steps(outcome: Outcome, what: str) -> list[float]:
    """Mean steps of the forward or backward solves, one number a log line."""
    return [float(steps) for steps in re.findall(rf" left .*\b{what[0]} ([\d.]+) ", outcome.log)]


def steps(outcome: Outcome, what: str) -> float:
    return logged_steps(outcome, what)[-1]


def fewer_steps(what: str, limit: int) -> Callable[[Outcome, Outcome], bool]:
    """Whether mean steps of the forward or backward solves fall below a limit on every log line."""
    return lambda before, after: max(logged_steps(after, what)) < limit < min(logged_steps(before, what))


def penalised(outcome: Outcome) -> int:
    """Updates that had the Jacobian penalty."""
    return sum(map(int, re.findall(r"jacobian \S+ in (\d+) updates", outcome.log)))


def shape(key: str, *sizes: int) -> Callable[[Outcome, Outcome], bool]:
    return lambda before, after: tuple(after.weights[key].shape) == sizes != tuple(before.weights[key].shape)


def more_weights(prefix: str) -> Callable[[Outcome, Outcome], bool]:
    """Whether the weights that there are more are those of one layer, and the result is another."""
    return lambda before, after: (
        {name.startswith(prefix) for name in after.weights.keys() - before.weights.keys()} == {True}
        and loss(before) != loss(after)
    )


def moved(outcome: Outcome, key: str) -> float:
    """Largest change of a parameter over a run that starts from the default seed's model."""
    torch.manual_seed(1111)
    settings = COMMAND.settings(**{**outcome.settings, "cutoffs": tuple(outcome.settings["cutoffs"])})
    start = make_model(COMMAND, settings, 25, torch.device("cpu")).state_dict()
    return float((outcome.weights[key] - start[key]).abs().max())
