"""The text of --depth: how often the cell is applied, stage by stage of a run."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

EQUILIBRIUM = "equilibrium"
EXAMPLE = '"0:1 8000:4 16000:equilibrium"'
A_NUMBER = re.compile("[1-9][0-9]{0,5}")  # of applications; what is more never ends
A_STEP = re.compile("[0-9]{1,15}")


class Stage(NamedTuple):
    """From the step `first` on the cell is applied n times; None for an equilibrium."""

    first: int
    n: int | None


def stages_of(depth: str) -> tuple[Stage, ...]:
    """The stages of "4", of "equilibrium", or of "0:1 8000:4 16000:equilibrium".

    Raises:
        ValueError: the text is of none of these forms, or the steps do not rise from 0.
    """
    if ":" not in depth:
        return (Stage(0, _applications(depth, depth)),)
    stages = []
    for part in depth.split():
        step, colon, n = part.partition(":")
        if not (colon and A_STEP.fullmatch(step)):
            raise ValueError(f"`depth` has {part!r}: write each stage as first step and depth, as in {EXAMPLE}")
        stages.append(Stage(int(step), _applications(n, depth)))
    if stages[0].first != 0 or any(after.first <= before.first for before, after in pairwise(stages)):
        raise ValueError(f"`depth` is {depth!r}: steps begin with 0 and rise, as in {EXAMPLE}")
    return tuple(stages)


def solves_at_all(depth: str) -> bool:
    """Whether one of its stages is an equilibrium; of a text of another form, whether one might be."""
    return EQUILIBRIUM in depth


def last_applications(depth: str) -> int | None:
    """How often the cell is applied in the end; None for an equilibrium.

    Raises:
        ValueError: as `stages_of`.
    """
    return stages_of(depth)[-1].n


def _applications(text: str, depth: str) -> int | None:
    if text == EQUILIBRIUM:
        return None
    if not A_NUMBER.fullmatch(text):
        raise ValueError(
            f"`depth` is {depth!r}: pass {EQUILIBRIUM}, a number of applications above 0, or stages of these, as in "
            f"{EXAMPLE}"
        )
    return int(text)
