"""What a model makes of each token of a text, and its table.

Shapes: N tokens of the text, R rows of T tokens that it is cut into, b of them read together, L tokens of a segment.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from data.text_tokens import TextTokens
from modules.report import SolveReport
from system.atomic_file import write_atomically
from system.errors import UserError

COLUMNS = ("word", "log_prob", "rank", "steps")
HEADER = "\t".join(COLUMNS).encode() + b"\n"


@dataclass(frozen=True)
class TokenScores:
    """What is known of each token of a text, (N,) each, in its order.

    Attributes:
        log_p: log-probability in nats; NaN where the token was not scored.
        rank: 1 + the number of likelier words; 0 where it was not scored.
        steps: of its row's solve for its segment; -1 where it was not scored, or nothing was solved.
    """

    log_p: np.ndarray
    rank: np.ndarray
    steps: np.ndarray

    @classmethod
    def unscored(cls, n: int) -> "TokenScores":
        """Of n tokens."""
        return cls(np.full(n, np.nan), np.zeros(n, np.int32), np.full(n, -1, np.int32))

    def put(self, rows: range, length: int, start: int, nll: Tensor, rank: Tensor, solve: SolveReport | None) -> None:
        """Take in the targets of a segment.

        Args:
            rows: b of the R rows.
            length: T.
            start: position in the rows of the segment's first token.
            nll, rank: of its targets (L, b).
            solve: that it took.
        """

        def targets_of(values: np.ndarray) -> np.ndarray:
            of_rows = values[rows.start * length : rows.stop * length].reshape(len(rows), length)
            return of_rows[:, start + 1 : start + 1 + len(nll)]  # (b, L), a view

        targets_of(self.log_p)[:] = -nll.t().cpu().numpy()
        targets_of(self.rank)[:] = rank.t().cpu().numpy()
        if solve is not None:
            targets_of(self.steps)[:] = np.array(solve.sequence_steps)[:, None]

    def lines(self, text: TextTokens) -> Iterator[str]:
        """A line for each token of the text: its word, and what is known of it; fields divided by tabs."""
        words = map(text.words.__getitem__, text.numbers)
        for word, log_p, rank, steps in zip(words, self.log_p, self.rank, self.steps, strict=True):
            scored = f"{log_p:.9g}\t{rank}\t{'' if steps < 0 else steps}" if rank else "\t\t"
            yield f"{word}\t{scored}\n"


def check_place(path: str, text: str) -> None:
    """Refuse a place where a table cannot be written, before anything is computed.

    Args:
        path: of the table.
        text: the source of the text.

    Raises:
        UserError: no folder that can be written, no regular file, or a file that is no such table.
    """
    place, given = Path(path), f"--per_token {path}"
    folder = place.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"{given}: {folder} is no folder that can be written: pass a file in one that is")
    if place.exists() and not place.is_file():
        raise UserError(f"{given} is no regular file: pass the name of one")
    if place.exists() and Path(text).exists() and place.samefile(text):
        raise UserError(f"{given} is the text that is scored: pass another name")
    if place.exists() and place.stat().st_size and not _is_table(place):
        raise UserError(f"{given} is there already and no table of this program: pass another name")


def _is_table(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.readline(len(HEADER) + 1) == HEADER
    except OSError:
        return False


def write_table(path: str, text: TextTokens, scores: TokenScores) -> None:
    """Write a line for each token, under a header.

    Raises:
        UserError: it cannot be written; what was there before stays.
    """

    def write(file: BinaryIO) -> None:
        for line in chain(["\t".join(COLUMNS) + "\n"], scores.lines(text)):
            file.write(line.encode())

    try:
        write_atomically(path, write)
    except OSError as error:
        raise UserError(
            f"--per_token {path} cannot be written ({error.strerror}): make room, or pass another place"
        ) from error
