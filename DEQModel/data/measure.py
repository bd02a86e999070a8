"""The figure by which people compare language models: perplexity, or for texts of characters bits per character."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from data.vocabulary import Unit


def perplexity(loss: float) -> float:
    """exp(loss in nats per token); infinite where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits(loss: float) -> float:
    """Bits per token, of a loss in nats."""
    return loss / math.log(2)


@dataclass(frozen=True)
class Measure:
    """A figure that follows from the mean nll.

    Attributes:
        name: of it, for people; `key` is the one for files and curves.
        short: a few letters for it.
        of: nats per token -> figure.
        decimals: that are shown of it, in a table one less.
    """

    name: str
    short: str
    of: Callable[[float], float]
    decimals: int

    @property
    def key(self) -> str:
        """Its name in files and of its curve."""
        return self.name.replace(" ", "_")

    def shown(self, loss: float) -> str:
        """The figure."""
        return f"{self.of(loss):.{self.decimals}f}"

    def in_table(self, loss: float) -> str:
        """The same in a table."""
        return f"{self.of(loss):.{self.decimals - 1}f}"


PERPLEXITY = Measure("perplexity", "ppl", perplexity, 3)
BITS_PER_CHARACTER = Measure("bits per character", "bpc", bits, 4)
MEASURES: dict[Unit, Measure] = {"word": PERPLEXITY, "character": BITS_PER_CHARACTER}


def figures(loss: float, unit: Unit) -> dict[str, float]:
    """For files and curves: the perplexity, which all have, and the tokens' own measure."""
    return {measure.key: measure.of(loss) for measure in (PERPLEXITY, MEASURES[unit])}
