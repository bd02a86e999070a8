"""Word types, their ids, and the rule by which a dataset's types are found and numbered."""

from collections.abc import Sequence
from dataclasses import dataclass

EOS = "<eos>"
UNK = "<unk>"


@dataclass(frozen=True)
class VocabularyRule:
    """How the words of a dataset are read and counted.

    Args:
        counted: the splits whose words make up the vocabulary, in the order in which they are counted.
        lower_case: whether the text is lower-cased.
    """

    counted: tuple[str, ...]
    lower_case: bool = False


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
