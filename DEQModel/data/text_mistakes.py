"""What is wrong with a text, told with the line where it is."""

import io
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import BinaryIO

from data.vocabulary import BLANK, EOS, VocabularyRule
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


def unknown_token(
    name: object,
    text: BinaryIO,
    rule: VocabularyRule,
    known: Container[str],
    vocabulary: str,
    remedy: str,
    *,
    spelled: bool = False,
) -> UserError:
    """The first token that is not known; there must be one.

    Args:
        name: of the text.
        text: in UTF-8, at its beginning.
        rule: by which its tokens are read.
        known: the tokens that have ids.
        vocabulary: what these are the tokens of.
        remedy: what to do.
        spelled: whether the characters of its words are the tokens.
    """

    def tokens(line: str) -> Iterable[str]:
        words = (line.lower() if rule.lower_case else line).split()
        return _spelled(words) if spelled else words

    with _lines(text) as lines:
        number, token = next(
            (number, token) for number, line in enumerate(lines, 1) for token in tokens(line) if token not in known
        )
    return UserError(f"{name}, line {number}: the {rule.unit} {token!r} is not in {vocabulary}; {remedy}")


def _spelled(words: Sequence[str]) -> Iterator[str]:
    """The characters of a line's words, with blanks between; a word that is `<eos>` ends a line within it."""
    for before, word in zip((EOS, *words), words, strict=False):
        if word != EOS:
            yield from word if before == EOS else BLANK + word


def _lines(text: BinaryIO, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(text, encoding="utf-8-sig", errors=errors)
