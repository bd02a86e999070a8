"""The words of a text, or of a part of one, as numbers in the order of their first occurrence.

A line (ended by a line feed, a carriage return or both) is split on white space as `str.split()` does; `<eos>` ends
every line, blank ones and an unfinished last one too. The word `<eos>` in the text itself is the same token. A byte
order mark at the start of the text is no part of it.

As a command this is the worker of `data.text_encoding`; it prints how many bytes it has read, chunk by chunk.
"""

import codecs
import io
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from data.vocabulary import EOS

ID_TYPE = np.dtype("<i4")
ID_CHUNK = 1 << 20  # ids
TEXT_CHUNK = 1 << 18  # bytes; the words of larger chunks leave the processor's cache
NO_TEXT = 3  # the worker's exit status


@dataclass(frozen=True)
class NumberedText:
    """A numbered text on disk.

    Args:
        numbers_path: raw little-endian int32, one a token; `<eos>` is 0.
        words_path: the words in the order of their numbers, UTF-8, one a line.
    """

    numbers_path: Path
    words_path: Path

    @classmethod
    def at(cls, stem: Path) -> "NumberedText":
        return cls(stem.with_suffix(".numbers"), stem.with_suffix(".words"))

    def words(self) -> list[str]:
        return self.words_path.read_bytes().decode().split("\n")

    def chunks(self) -> Iterator[np.ndarray]:
        """The numbers, in arrays of bounded length."""
        with open(self.numbers_path, "rb") as file:
            while len(numbers := np.fromfile(file, ID_TYPE, ID_CHUNK)):
                yield numbers

    def counts(self) -> np.ndarray:
        """How often each word occurs, (number of words,)."""
        n_words = len(self.words())
        return sum(
            (np.bincount(numbers, minlength=n_words) for numbers in self.chunks()),
            np.zeros(n_words, np.int64),
        )

    def delete(self) -> None:
        self.numbers_path.unlink()
        self.words_path.unlink()


def number_text(
    path: Path, begin: int, end: int, target: NumberedText, lower_case: bool, advance: Callable[[int], object]
) -> None:
    """Number the words of the bytes from `begin` to `end`, which are the starts of lines or the end of the file.

    Args:
        path: a UTF-8 text.
        begin, end: bytes.
        target: the files to write.
        lower_case: whether to lower-case the words.
        advance: called with the number of bytes read, chunk by chunk.

    Raises:
        UnicodeError: the bytes are not UTF-8, or hold NUL.
    """
    numbers = first_come_numbers()
    with open(target.numbers_path, "wb") as out:
        for words in read_words(_chunks(path, begin, end, advance), begins=begin == 0):
            if lower_case:
                words = map(str.lower, words)
            out.write(np.fromiter(map(numbers.__getitem__, words), ID_TYPE).data)
    target.words_path.write_bytes("\n".join(numbers).encode())


def first_come_numbers() -> defaultdict[str, int]:
    """Word -> its number, which a new word is given when it is looked up: how many there were before it."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    numbers[EOS]
    return numbers


def _chunks(path: Path, begin: int, end: int, advance: Callable[[int], object]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(begin)
        while data := file.read(min(TEXT_CHUNK, end - file.tell())):
            yield data
            advance(len(data))


def read_words(chunks: Iterable[bytes], *, begins: bool = True) -> Iterator[list[str]]:
    """Words and line ends, in lists of bounded length however long the lines are.

    Args:
        chunks: a UTF-8 text in pieces.
        begins: whether they are the beginning of a text, where a byte order mark is dropped.

    Raises:
        UnicodeError: they are not UTF-8, or hold NUL.
    """
    encoding = "utf-8-sig" if begins else "utf-8"
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    last, rest = "\n", ""
    for data in chain(chunks, [b""]):
        if b"\0" in data:
            raise UnicodeError("NUL")
        text = rest + decoder.decode(data, final=not data)
        words = text.replace("\n", f" {EOS} ").split()
        last = text[-1:] or last
        rest = "" if last.isspace() else words.pop()  # the chunk may end inside a word
        yield words
    unfinished_line = [] if last == "\n" else [EOS]
    yield [rest, *unfinished_line] if rest else unfinished_line


def main(path: str, begin: str, end: str, stem: str, lower_case: str) -> int:
    target = NumberedText.at(Path(stem))
    try:
        number_text(Path(path), int(begin), int(end), target, lower_case == "True", lambda n: print(n, flush=True))
    except UnicodeError:
        return NO_TEXT
    except BrokenPipeError:  # the process that waits for the result has gone
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
