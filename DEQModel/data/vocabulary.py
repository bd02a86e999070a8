"""Word types, their ids, and the rule by which a dataset's types are found and numbered."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from system.atomic_file import write_atomically
from system.errors import UserError

EOS = "<eos>"
UNK = "<unk>"
BLANK = "_"  # between words, in texts of characters
Unit = Literal["word", "character"]


@dataclass(frozen=True)
class VocabularyRule:
    """How the tokens of a dataset are read and counted.

    Args:
        counted: the splits whose tokens make up the vocabulary, in the order in which they are counted.
        lower_case: whether the text is lower-cased.
        unit: what a token is; `data.characters` tells how a text is read as characters.
    """

    counted: tuple[str, ...]
    lower_case: bool = False
    unit: Unit = "word"


class Vocab:
    """The V word types of a corpus, and the id of each: its place in `words`.

    `<eos>` has id 0; the others follow by falling count, ties by first occurrence. Trained embeddings are
    useless under any other numbering.

    Args:
        words: the V types in the order of their ids.
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.unk_id: int | None = self._ids.get(UNK)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def id_of(self, word: str) -> int:
        """The id of a word; that of `<unk>` for a word outside the vocabulary.

        Raises:
            KeyError: the word is unknown and there is no `<unk>`.
        """
        number = self._ids.get(word, self.unk_id)
        if number is None:
            raise KeyError(word)
        return number

    @cached_property
    def identity(self) -> str:
        """The same for two vocabularies that give every word the same id, and else another."""
        return identity_of("\n".join(self.words).encode())

    def write(self, path: str | os.PathLike) -> None:
        """Write the words, one a line, in the order of their ids.

        Raises:
            OSError: the file cannot be written.
        """
        text = "".join(f"{word}\n" for word in self.words).encode()
        write_atomically(path, lambda file: file.write(text))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Vocab":
        """The vocabulary in a file of words, one a line.

        Raises:
            UserError: it cannot be read, or is no vocabulary.
        """
        remedy = "pass the vocabulary.txt of the run that trained the model"
        try:
            words = Path(path).read_bytes().decode().removesuffix("\n").split("\n")
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}): {remedy}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text in UTF-8: {remedy}") from error
        if words[0] != EOS or len(set(words)) < len(words) or any(word.split() != [word] for word in words):
            raise UserError(f"{path} is no vocabulary, which has {EOS} first and every word once, one a line: {remedy}")
        return cls(words)


def identity_of(words: bytes) -> str:
    """`Vocab.identity`, of the words in UTF-8 with line ends between them."""
    return hashlib.sha256(words).hexdigest()[:16]
