"""The tokens of a text: those that the corpus reader finds, and what is said of words and lines that do not fit."""

import io
import sys

import pytest

from data import text_numbering, text_tokens
from data.corpus import DATASETS, Corpus
from data.text_tokens import TextTokens
from data.vocabulary import Vocab, VocabularyRule
from system.errors import UserError

TRAIN = "the cat sat <unk> . the Hat Ünïcode 語\n"
TEXTS = {
    "lines": "the cat\nsat .\n",
    "line ends of all kinds": "the cat\r\nsat\r\rthe\n\n",
    "no last line end": "the cat\nsat",
    "blanks at the end": "the cat\n  ",
    "white space of Unicode": "the\u00a0cat\u2003sat\x1f.\x85the\u2028cat\n",
    "<eos> in the text": "the <eos> cat <eos>\n",
    "unknown words": "the dog sat . dog DOG cow\n",
    "beyond ASCII": "Ünïcode 語 ΑΣ\n",
}
PLAIN = VocabularyRule(("train",))


def vocab(*words: str) -> Vocab:
    return Vocab(["<eos>", *words])


@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
@pytest.mark.parametrize("dataset", ["wt103", "ptb"])
@pytest.mark.parametrize("name", TEXTS)
def test_ids_are_those_of_a_corpus(name, dataset, chunk, tmp_path, monkeypatch):
    for module in (text_numbering, text_tokens):
        monkeypatch.setattr(module, "TEXT_CHUNK", chunk)
    for split, text in (("train", TRAIN), ("valid", TRAIN), ("test", TEXTS[name])):
        (tmp_path / f"{split}.txt").write_bytes(text.encode())
    corpus = Corpus.load(tmp_path, dataset, progress=False)
    tokens = TextTokens.of_file(str(tmp_path / "test.txt"), corpus.vocab, DATASETS[dataset])
    assert tokens.ids.tolist() == corpus.test.tolist()
    assert len(tokens) == len(corpus.test)


def test_words_stand_as_in_the_text_and_unknown_ones_are_counted():
    tokens = TextTokens.of(b"B a x\n\nX y x a", "here", vocab("<unk>", "a", "b"), VocabularyRule((), True))
    assert [tokens.words[i] for i in tokens.numbers] == ["B", "a", "x", "<eos>", "<eos>", "X", "y", "x", "a", "<eos>"]
    assert tokens.ids.tolist() == [3, 2, 1, 0, 0, 1, 1, 1, 2, 0]
    assert tokens.unknown == {"x": 2, "X": 1, "y": 1}
    assert tokens.unknown_in_words() == "words outside the vocabulary, read as <unk>: 4 of 7 ('x', 'X', 'y')"


def test_of_many_unknown_words_the_first_are_named():
    tokens = TextTokens.of(b"a b c d e f g", "here", vocab("<unk>"), PLAIN)
    assert tokens.unknown_in_words().endswith("7 of 7 ('a', 'b', 'c', 'd', 'e' and 2 more)")
    assert TextTokens.of(b"a b", "here", vocab("a", "b"), PLAIN).unknown_in_words() == ""


@pytest.mark.parametrize(
    "text", ["ab c\n", "ab  c d\n\n\n e\n", "ab", "\n\n", "語 語語\r\nÜ\n", "a <eos> b\n", " a\t\n\tb "]
)
def test_characters_are_those_of_the_text_in_plain_form(text):
    tokens = TextTokens.of(text.encode(), "here", vocab("<unk>"), PLAIN)
    lines = "".join(text.replace("\r\n", "\n")).replace("<eos>", "\n").rstrip(" ").split("\n")
    plain = "".join(" ".join(line.split()) + "\n" for line in (lines if lines[-1] else lines[:-1]))
    assert tokens.characters.sum() == len(plain)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a ü\n".encode()), encoding="ascii"))
    tokens = TextTokens.of_file("-", vocab("a", "ü"), PLAIN)
    assert (tokens.name, tokens.ids.tolist()) == ("standard input", [1, 2, 0])


BAD = {
    "not UTF-8": (b"a b\r\na \xff b\n", ["line 2", "not UTF-8", "convert"]),
    "cut off in a letter": (b"a\na \xc3", ["line 2", "not UTF-8"]),
    "a NUL byte": (b"a\n\na \0b\n", ["line 3", "NUL byte"]),
    "UTF-16": ("a b\n".encode("utf-16"), ["line 1", "not UTF-8"]),
    "empty": (b"", ["holds no words"]),
    "blank lines": (b"\n \n", ["holds no words"]),
    "an unknown word": (b"a b\na <eos>\n\nb\ta c\n", ["line 4", "the word 'c'", "no <unk>"]),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line(name, tmp_path):
    data, parts = BAD[name]
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        TextTokens.of_file(str(path), vocab("a", "b"), PLAIN)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"{place} cannot be read .*: pass a text"):
            TextTokens.of_file(str(place), vocab(), PLAIN)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input cannot be read"):
        TextTokens.of_file("-", vocab(), PLAIN)
