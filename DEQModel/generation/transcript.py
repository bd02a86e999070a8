"""Samples on the screen: the first one word by word as it is drawn, the others behind it."""

from data.plain_text import PlainText
from data.vocabulary import EOS, Unit, Vocab
from generation.generator import Draw
from generation.settings import N_SEEDS
from system.progress import say


class Transcript:
    """Prints the words of samples as a plain text.

    Several samples have a header each, which names the seed that gives this one alone.

    Args:
        vocab: the words.
        samples: how many there are.
        seed: of the first.
        unit: what a word of the vocabulary is.
    """

    def __init__(self, vocab: Vocab, samples: int, seed: int, unit: Unit = "word"):
        self.vocab, self.samples, self.seed, self.text = vocab, samples, seed, PlainText(unit)
        self.waiting: list[list[str]] = [[] for _ in range(samples)]  # words of samples that are not shown yet
        self._begin(0)

    def add(self, draw: Draw) -> None:
        """Take a word in."""
        word = self.vocab.words[draw.word]
        if draw.sample == 0:
            self._put(word)
        else:
            self.waiting[draw.sample].append(word)

    def close(self) -> None:
        """Print what is left."""
        self._end()
        for sample in range(1, self.samples):
            self._begin(sample)
            for word in self.waiting[sample]:
                self._put(word)
            self._end()

    def _begin(self, sample: int) -> None:
        if self.samples > 1:
            say(f"--- sample {sample + 1} of {self.samples} (--seed {(self.seed + sample) % N_SEEDS})")

    def _put(self, word: str) -> None:
        say(self.text.of(word), end="")

    def _end(self) -> None:
        if self.text.within_line:
            say(self.text.of(EOS), end="")
