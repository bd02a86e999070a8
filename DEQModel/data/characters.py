"""Texts of characters: a token a character, `_` for the blank between two words, `<eos>` for the end of a line.

A text is read as words first, which is fast, and its numbered words are spelled then: the text is not read again. A
corpus whose every word, in all of its texts, is one character (or `<unk>`) is spelled already, with a blank between any
two characters, as the published files of Penn Treebank's characters are: there the words are the tokens. A character
is a code point. A `_` of the text cannot be told from a blank, and `<unk>` among words is the five characters that it
consists of.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data.text_numbering import ID_TYPE, NumberedText
from data.vocabulary import BLANK, EOS, UNK

FEW = 1 << 16  # words that are spelled at a time


def are_characters(words: Iterable[str]) -> bool:
    """Whether a text with these words is spelled already."""
    return all(len(word) == 1 or word in (EOS, UNK) for word in words)


class Spelling:
    """The characters of numbered words.

    Args:
        words: in the order of their first occurrence; `<eos>` is the first.
        n_before_blank: how many of them occur before the first blank; None where there is none.

    Attributes:
        characters: in the order of their first occurrence; `<eos>` is the first.
    """

    def __init__(self, words: Sequence[str], n_before_blank: int | None):
        places: dict[str, int] = {EOS: 0}
        for i, word in enumerate(words[1:], 1):
            if i == n_before_blank:
                places.setdefault(BLANK, len(places))
            for character in word:
                places.setdefault(character, len(places))
        if n_before_blank is not None:
            places.setdefault(BLANK, len(places))
        self.characters = tuple(places)
        # each word behind a blank, all in a row, as places among the characters
        blank = places.get(BLANK, 0)
        spelled = [[0, 0], *([blank, *map(places.__getitem__, word)] for word in words[1:])]
        self.row = np.array([place for word in spelled for place in word], ID_TYPE)
        self.lengths = np.array([len(word) - 1 for word in spelled])  # blank apart
        self.starts = np.cumsum(self.lengths + 1) - self.lengths  # of the word itself
        self.within_line = False

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The next words, (N,) numbers -> (M,) places in `characters`."""
        blank = blanks(numbers, self.within_line)
        if len(numbers):
            self.within_line = bool(numbers[-1])
        lengths = self.lengths[numbers] + blank
        ends = np.cumsum(lengths)
        # place in the row of a word's first character, less its place in the result
        shift = self.starts[numbers] - blank - (ends - lengths)
        return self.row[np.arange(ends[-1] if len(ends) else 0) + np.repeat(shift, lengths)]


def blanks(numbers: np.ndarray, within_line: bool) -> np.ndarray:
    """Before which words there is a blank, (N,) bool: those behind another of their line.

    Args:
        numbers: of the words (N,); 0 is `<eos>`.
        within_line: whether there is a word of the first one's line before them.
    """
    is_word = numbers != 0
    return is_word & np.concatenate(([within_line], is_word[:-1]))[: len(numbers)]


def n_before_blank(pieces: Iterable[np.ndarray]) -> int | None:
    """How many different words occur before the first blank of a text, of its numbers in pieces; None without one."""
    seen, within_line = 1, False
    for numbers in pieces:
        blank = blanks(numbers, within_line)
        if blank.any():
            return max(seen, 1 + int(numbers[: blank.argmax()].max(initial=0)))
        if len(numbers):
            seen, within_line = max(seen, 1 + int(numbers.max())), bool(numbers[-1])
    return None


def spell(text: NumberedText) -> None:
    """Put the characters of a numbered text, or of a part that begins with a line, in the place of its words."""
    spelling = Spelling(text.words(), n_before_blank(text.chunks()))
    numbers_path = text.numbers_path.with_suffix(".characters")
    with open(numbers_path, "wb") as out:
        for numbers in text.chunks():
            for i in range(0, len(numbers), FEW):
                out.write(spelling.of(numbers[i : i + FEW]).data)
    numbers_path.replace(text.numbers_path)
    text.words_path.write_bytes("\n".join(spelling.characters).encode())
