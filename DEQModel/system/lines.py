"""Lines for people: how wide they are, and the clock in front."""

import time
from collections.abc import Sequence
from textwrap import fill

WIDTH = 110  # columns, as far as words allow it
CLOCK_WIDTH = len("15:48:58 ")


def wrapped(text: str, indent: int, *, width: int = WIDTH) -> str:
    """A text of one line, its further lines indented where it needs several."""
    if len(text) <= width:
        return text
    return fill(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def rows(texts: dict[str, str], label_width: int) -> list[str]:
    """Rows of a name and a text each, narrow enough to stand below a clock."""
    width = WIDTH - CLOCK_WIDTH
    return [wrapped(f"{name:{label_width}}{text}", label_width, width=width) for name, text in texts.items()]


def stamped(text: str) -> str:
    """With the local time in front; further lines stand below the text, not below the clock."""
    first, *others = text.split("\n")
    lines = [wrapped(f"{time.strftime('%H:%M:%S')} {first}", CLOCK_WIDTH)]
    return "\n".join(lines + [" " * CLOCK_WIDTH + line for line in others])


def under_each_other(columns: Sequence[Sequence[str]]) -> str:
    """Cells in lines; those of the first column to the left, those of the others to the right."""
    widths = [max(map(len, column)) for column in columns]
    sides = "<" + ">" * (len(columns) - 1)
    rows = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]
    return "\n".join(row.rstrip() for row in rows)
