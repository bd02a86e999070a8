"""Numbering and encoding of texts against a brute-force oracle."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from data import characters, text_encoding, text_numbering
from data.corpus import DATASETS, SPLITS, Corpus
from data.vocabulary import Vocab, VocabularyRule

TEXTS = {
    "ties": ("b a b a c d\n", "d e\n", "f e a\n"),
    "blank lines": ("\n\n a \n\nb\n \n", "\n b\n\n", "a\n\n"),
    "line ends": ("a b\r\nc\r\n\r\nd\re\n", "a\r", "b\r\n"),
    "no last newline": ("a b\nc", "b", "c  "),
    "white space of Unicode": ("a\u00a0b\u2003c\x1fd\x0be\x85f\u2028g\u200bh\n", "a\u3000b\n", "\tc\x0c\n"),
    "<eos> in the text": ("a <eos> b <eos> <eos>\n", "<eos> a\n", "b\n"),
    "beyond ASCII": ("Ünïcode 語 𝔘 ΣΊΣΥΦΟΣ ΑΣ\n", "語 Ünïcode\n", "ΣΊΣΥΦΟΣ 𝔘 İ\n"),
    "byte order marks": ("\ufeffa b a\ufeff\n", "\ufeff \ufeffa\n", "\ufeff\nb"),
    "<unk>": ("<unk> a a B\n", "nowhere a <unk>\n", "A b\n"),
    "characters": ("a b _ c\n", " _ a\n\n <unk> b \n", "c _ _ a\n"),
    "words in the last text alone": ("a b\n\nc d\n", "a\n", " b ca\n"),
    "a word a line": ("ab\ncc\n\nb\n", "d\nbd", "a\n"),
    "a late blank": ("abc\ndef\nde abc\n", "a_b  c\n", "e\n"),
    "<eos> within a line of words": ("ab <eos> cd ef <eos> <eos>\n", "<eos> ab cd\n", "b\n"),
}


def spelled(words: list[str]) -> list[str]:
    """The characters of a line's words, with `_` between two of them."""
    line = " ".join(words).replace(" <eos>", "<eos>").replace("<eos> ", "<eos>")
    return re.findall("<eos>|.", line.replace(" ", "_"), re.DOTALL)


def oracle(folder, rule: VocabularyRule):
    """Tokens, and ids of each split, straight from the definition."""
    lines = {}
    for split in SPLITS:
        with open(folder / f"{split}.txt", encoding="utf-8-sig") as file:
            lines[split] = [(line.lower() if rule.lower_case else line).strip().split() for line in file]
    every = {word for of_split in lines.values() for line in of_split for word in line}
    if rule.unit == "character" and not all(len(word) == 1 or word in ("<eos>", "<unk>") for word in every):
        lines = {split: [spelled(line) for line in of_split] for split, of_split in lines.items()}
    counts = Counter(word for split in rule.counted for line in lines[split] for word in line)
    words = ["<eos>", *(word for word, _ in counts.most_common() if word != "<eos>")]
    ids = {word: i for i, word in enumerate(words)}
    unknown = ids.get("<unk>")
    return words, {
        split: [ids.get(word, unknown) for line in of_split for word in [*line, "<eos>"]]
        for split, of_split in lines.items()
    }


def write(folder, texts):
    for split, text in zip(SPLITS, texts, strict=True):
        (folder / f"{split}.txt").write_bytes(text.encode())


def check(folder, dataset):
    corpus = Corpus.load(folder, dataset, progress=False)
    words, ids = oracle(folder, DATASETS[dataset])
    assert list(corpus.vocab.words) == words
    for split in SPLITS:
        array = getattr(corpus, split)
        assert array.dtype == np.int32
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, ids[split])


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 18])
@pytest.mark.parametrize("name", TEXTS)
def test_ids_are_the_oracles(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(text_numbering, "TEXT_CHUNK", chunk)
    write(tmp_path, TEXTS[name])
    for dataset in ("wt2", "ptb", "ptb_char"):
        check(tmp_path, dataset)


def test_counts_of_the_training_text_alone(tmp_path):
    write(tmp_path, TEXTS["<unk>"])
    check(tmp_path, "wt103")
    check(tmp_path, "text")


@pytest.mark.parametrize("mark", ["", "\ufeff"])  # a byte order mark only where the text starts
@pytest.mark.parametrize("dataset", ["wt2", "ptb_char"])
def test_a_text_read_by_two_processes_has_the_oracles_ids(tmp_path, monkeypatch, mark, dataset):
    monkeypatch.setattr(text_encoding, "LARGE", 1000)
    draw = random.Random(0)
    texts = [
        "".join(
            f"{mark}{' '.join(f'w{min(int(draw.expovariate(0.02)), 400)}é' for _ in range(draw.randrange(9)))}\n"
            for _ in range(n_lines)
        )
        for n_lines in (900, 5, 400)
    ]
    write(tmp_path, texts)
    spans = text_encoding._line_starts(tmp_path / "train.txt", 2)
    assert len(spans) == 3
    monkeypatch.setattr(characters, "FEW", 50)
    check(tmp_path, dataset)


@pytest.mark.parametrize(
    "text", ["one line and no end", "one line\n", "a\n" * 50, "a\n" + "b" * 50, "a" * 50 + "\nb\n"]
)
@pytest.mark.parametrize("n_parts", [1, 2, 5])
def test_parts_are_whole_lines(tmp_path, text, n_parts):
    path = tmp_path / "train.txt"
    path.write_text(text)
    starts = text_encoding._line_starts(path, n_parts)
    assert starts[0] == 0
    assert starts[-1] == len(text)
    assert all(text[start - 1] == "\n" for start in starts[1:-1])


def test_vocab():
    vocab = Vocab(["<eos>", "a", "<unk>"])
    assert (len(vocab), vocab.unk_id, vocab.id_of("a"), vocab.id_of("b")) == (3, 2, 1, 2)
    assert "a" in vocab
    assert "b" not in vocab
    without = Vocab(["<eos>", "a"])
    assert without.unk_id is None
    with pytest.raises(KeyError):
        without.id_of("b")
