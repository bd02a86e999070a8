"""The tokens of a text that is no part of a corpus, under a corpus's vocabulary."""

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.characters import Spelling, are_characters, n_before_blank
from data.text_mistakes import no_text, unknown_token
from data.text_numbering import ID_TYPE, TEXT_CHUNK, first_come_numbers, read_words
from data.vocabulary import BLANK, EOS, UNK, Unit, Vocab, VocabularyRule
from system.errors import UserError

STANDARD_INPUT = "-"
N_SHOWN = 5  # unknown words


@dataclass(frozen=True)
class TextTokens:
    """N tokens, read by the rule of corpora: the words of every line, which white space divides, and `<eos>` behind it.

    Where the rule's tokens are characters, the words are spelled, with `_` between two of a line, unless each is one
    character.

    Attributes:
        name: of the text, for messages.
        words: the words, or characters, that occur, as they stand in the text; `<eos>` is the first.
        numbers: (N,) int32, the place in `words` of each token.
        ids: (N,) int32, the id of each token; that of `<unk>` for words outside the vocabulary.
        unknown: these words, in the order of their first occurrence, and how often each occurs.
        unit: what a token is.
    """

    name: str
    words: tuple[str, ...]
    numbers: np.ndarray
    ids: np.ndarray
    unknown: Mapping[str, int]
    unit: Unit = "word"

    @classmethod
    def of_file(cls, source: str, vocab: Vocab, rule: VocabularyRule) -> "TextTokens":
        """The tokens of a file, or with "-" of standard input.

        Raises:
            UserError: it cannot be read, or holds no words; what `of` raises.
        """
        tokens = cls.of(*read_source(source), vocab, rule)
        if len(tokens.words) == 1:
            raise UserError(f"{tokens.name} holds no words: pass a text")
        return tokens

    @classmethod
    def of(cls, data: bytes, name: str, vocab: Vocab, rule: VocabularyRule) -> "TextTokens":
        """The tokens of a text.

        Args:
            data: in UTF-8.
            name: of the text, for messages.
            vocab: the words that have ids.
            rule: by which they were read.

        Raises:
            UserError: it is not UTF-8, has a NUL byte, or a word outside the vocabulary where there is no `<unk>`.
        """
        places = first_come_numbers()
        chunks = (data[i : i + TEXT_CHUNK] for i in range(0, len(data), TEXT_CHUNK))
        try:
            pieces = [np.fromiter(map(places.__getitem__, words), ID_TYPE) for words in read_words(chunks)]
        except UnicodeError:
            raise no_text(name, io.BytesIO(data)) from None
        words, numbers = tuple(places), np.concatenate(pieces)
        spelled = rule.unit == "character" and not are_characters(words)
        if spelled:
            spelling = Spelling(words, n_before_blank([numbers]))
            words, numbers = spelling.characters, spelling.of(numbers)
        read_as = [word.lower() for word in words] if rule.lower_case else words
        if vocab.unk_id is None and any(word not in vocab for word in read_as):
            of_what, remedy = f"the vocabulary, which has no {UNK} either", f"replace it by a {rule.unit} that is"
            raise unknown_token(name, io.BytesIO(data), rule, vocab, of_what, remedy, spelled=spelled)
        counts = np.bincount(numbers, minlength=len(words))
        return cls(
            name=name,
            words=words,
            numbers=numbers,
            ids=np.array([vocab.id_of(word) for word in read_as], ID_TYPE)[numbers],
            unknown={words[i]: int(counts[i]) for i, word in enumerate(read_as) if word not in vocab},
            unit=rule.unit,
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def is_word(self) -> np.ndarray:
        """Which tokens are words, or in texts of characters the last of one, (N,) bool: not line ends, not blanks."""
        divides = np.array([word == EOS or (word == BLANK and self.unit == "character") for word in self.words])
        within = ~divides[self.numbers]
        if self.unit == "character":
            within[:-1] &= ~within[1:]
        return within

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters that each token adds to the text with single blanks between words and one line end a line, (N,).

        A word brings the blank before it along, where there is one. In texts of characters each token is one.
        """
        if self.unit == "character":
            return np.ones(len(self), np.int64)
        lengths = np.array([1 if word == EOS else len(word) for word in self.words], np.int64)[self.numbers]
        lengths[1:] += self.is_word[1:] & self.is_word[:-1]
        return lengths

    def unknown_in_words(self) -> str:
        """How many words are unknown, of how many, and the first of them; empty where all are known."""
        if not self.unknown:
            return ""
        n_unknown, n_read = sum(self.unknown.values()), np.count_nonzero(self.numbers)
        shown = ", ".join(map(repr, list(self.unknown)[:N_SHOWN]))
        more = f" and {len(self.unknown) - N_SHOWN:,} more" if len(self.unknown) > N_SHOWN else ""
        return f"{self.unit}s outside the vocabulary, read as {UNK}: {n_unknown:,} of {n_read:,} ({shown}{more})"


def read_source(source: str) -> tuple[bytes, str]:
    """What a file holds, or with "-" what standard input does, and its name for messages.

    Raises:
        UserError: it cannot be read.
    """
    name = "standard input" if source == STANDARD_INPUT else source
    try:
        if source != STANDARD_INPUT:
            return Path(source).read_bytes(), name
        if sys.stdin is None:
            raise OSError("it is closed")
        return sys.stdin.buffer.read(), name
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror or error}): pass a text in UTF-8") from error
