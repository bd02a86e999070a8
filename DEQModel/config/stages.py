"""The texts of --depth and --train_thres: how often the cell is applied, and how far solves go, by stages of a run."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

EQUILIBRIUM = "equilibrium"
EXAMPLE = '"0:1 8000:4 16000:equilibrium"'
THRESHOLDS_EXAMPLE = '"0:3 8000:6"'
A_NUMBER = re.compile("[1-9][0-9]{0,5}")  # of applications or steps; what is more never ends
A_STEP = re.compile("[0-9]{1,15}")


class Stage(NamedTuple):
    """From the step `first` on the cell is applied n times, None for an equilibrium; or solves have the threshold n."""

    first: int
    n: int | None


def stages_of(depth: str) -> tuple[Stage, ...]:
    """The stages of "4", of "equilibrium", or of "0:1 8000:4 16000:equilibrium".

    Raises:
        ValueError: the text is of none of these forms, or the steps do not rise from 0.
    """
    parts = _parts(depth, "depth", EXAMPLE)
    return tuple(Stage(first, _applications(n, depth)) for first, n in parts)


def thresholds_of(text: str) -> tuple[Stage, ...]:
    """The thresholds of "3", or of "0:3 8000:6" stage by stage.

    Raises:
        ValueError: as `stages_of`.
    """
    parts = _parts(text, "train_thres", THRESHOLDS_EXAMPLE)
    if not all(A_NUMBER.fullmatch(n) for _, n in parts):
        raise ValueError(
            f"`train_thres` is {text!r}: pass a number of steps above 0, or stages of these, as in {THRESHOLDS_EXAMPLE}"
        )
    return tuple(Stage(first, int(n)) for first, n in parts)


def solves_at_all(depth: str) -> bool:
    """Whether one of its stages is an equilibrium; of a text of another form, whether one might be."""
    return EQUILIBRIUM in depth


def last_applications(depth: str) -> int | None:
    """How often the cell is applied in the end; None for an equilibrium.

    Raises:
        ValueError: as `stages_of`.
    """
    return stages_of(depth)[-1].n


def _parts(text: str, name: str, example: str) -> list[tuple[int, str]]:
    """First step and word of each stage; a text without a colon is that of the one stage there is."""
    if ":" not in text:
        return [(0, text)]
    parts = []
    for part in text.split():
        step, colon, word = part.partition(":")
        if not (colon and A_STEP.fullmatch(step)):
            raise ValueError(f"`{name}` has {part!r}: write each stage as first step and {name}, as in {example}")
        parts.append((int(step), word))
    if parts[0][0] != 0 or any(after <= before for (before, _), (after, _) in pairwise(parts)):
        raise ValueError(f"`{name}` is {text!r}: steps begin with 0 and rise, as in {example}")
    return parts


def _applications(text: str, depth: str) -> int | None:
    if text == EQUILIBRIUM:
        return None
    if not A_NUMBER.fullmatch(text):
        raise ValueError(
            f"`depth` is {depth!r}: pass {EQUILIBRIUM}, a number of applications above 0, or stages of these, as in "
            f"{EXAMPLE}"
        )
    return int(text)
