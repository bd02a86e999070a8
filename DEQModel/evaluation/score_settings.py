"""What the program that scores texts can be asked for."""

from dataclasses import dataclass

from evaluation.evaluation import EVAL_ROWS
from system.flag import flag


@dataclass(frozen=True)
class ScoreSettings:
    """How a text is cut up, and what is written down."""

    rows: int = flag(EVAL_ROWS, "rows that the text is cut into, of which the first words are not scored", least=1)
    batch_size: int | None = flag(
        None, "rows that are computed at the same time, at most all of them (default: all)", kind=int, least=1
    )
    per_token: str | None = flag(
        None,
        "write a table of all words, each with its log-probability, rank and solver steps, divided by tabs",
        kind=str,
        is_place=True,
    )
