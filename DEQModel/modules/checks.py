"""What values parameters may have. Messages have a parameter's name in backticks, for which others can put a flag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The numbers that are at least `least`, above `above` and at most `most`, each where it is given."""

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        bounds = {"{} or more": self.least, "a number above {}": self.above, "at most {}": self.most}
        return " and ".join(words.format(bound) for words, bound in bounds.items() if bound is not None)

    def check(self, name: str, value: float) -> None:
        """Raises ValueError where the value of this parameter lies outside, as NaN does."""
        if value not in self:
            raise ValueError(f"`{name}` is {value}: pass {self}")


SHARE = Range(above=0, most=1)  # of a step, or of one value in the mean of two


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError where the value of this parameter is none of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}: choose one of {', '.join(choices)}")
