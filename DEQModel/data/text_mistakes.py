"""What is wrong with a text, told with the line where it is."""

import io
import re
from collections.abc import Container
from typing import BinaryIO

from data.vocabulary import VocabularyRule
from system.errors import UserError

UNREADABLE = re.compile("[\0\udc80-\udcff]")  # NUL, and what "surrogateescape" makes of bytes that are not UTF-8


def no_text(name: object, text: BinaryIO) -> UserError:
    """The first line with bytes that are not UTF-8, or with a NUL byte; there must be one."""
    with _lines(text, errors="surrogateescape") as lines:
        number, found = next(
            (number, found) for number, line in enumerate(lines, 1) if (found := UNREADABLE.search(line))
        )
    what = "a NUL byte, as in UTF-16 or a damaged file" if found[0] == "\0" else "bytes that are not UTF-8"
    return UserError(f"{name}, line {number}: {what}; convert the file to UTF-8")


def unknown_word(
    name: object, text: BinaryIO, rule: VocabularyRule, known: Container[str], vocabulary: str, remedy: str
) -> UserError:
    """The first word that is not known; there must be one.

    Args:
        name: of the text.
        text: in UTF-8, at its beginning.
        rule: by which its words are read.
        known: the words that have ids.
        vocabulary: what they are the words of.
        remedy: what to do.
    """
    with _lines(text) as lines:
        number, word = next(
            (number, word)
            for number, line in enumerate(lines, 1)
            for word in (line.lower() if rule.lower_case else line).split()
            if word not in known
        )
    return UserError(f"{name}, line {number}: the word {word!r} is not in {vocabulary}; {remedy}")


def _lines(text: BinaryIO, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(text, encoding="utf-8-sig", errors=errors)
