"""Texts of characters: published files and texts of words, in corpora, prompts, scores and samples."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from penn_treebank import write_penn
from tiny_run import COURSE, LENGTHS, MODEL, Outcome, call

from data import characters, text_encoding
from data.characters import Spelling, n_before_blank
from data.corpus import DATASETS, SPLITS, Corpus
from data.plain_text import PlainText
from data.text_tokens import TextTokens
from data.vocabulary import Vocab
from evaluation.scoring import score
from evaluation.trained_model import TrainedModel
from generation.program import main as generate
from system.errors import UserError

RULE = DATASETS["ptb_char"]
VOCAB = Vocab(["<eos>", "_", *"abcé語"])
PENN = Path(os.environ.get("PENN_TREEBANK", Path(__file__).parent.parent / "data"))  # holds penn and penn_char
SIZES = {  # types; tokens of train, valid and test, line ends included
    ("penn", "ptb"): (10_000, 929_589, 73_760, 82_430),
}


def load(folder: Path, dataset: str = "ptb_char") -> Corpus:
    return Corpus.load(folder, dataset, progress=False)


def ids(text: str, vocab: Vocab = VOCAB) -> list[str]:
    return [vocab.words[i] for i in TextTokens.of(text.encode(), "here", vocab, RULE).ids]


@pytest.mark.parametrize("large", [1 << 26, 8])  # read by this process, and by workers
def test_words_and_the_published_form_give_the_same_ids(tmp_path, monkeypatch, large):
    monkeypatch.setattr(text_encoding, "LARGE", large)
    plain, spelled = load(write_penn(tmp_path / "plain")), load(write_penn(tmp_path / "spelled", spelled=True))
    assert plain.vocab.words == spelled.vocab.words
    assert plain.checksum == spelled.checksum
    lines = (tmp_path / "plain" / "train.txt").read_text().splitlines()
    text = "".join(map(PlainText("character").of, (plain.vocab.words[i] for i in plain.train)))
    assert text == "".join(f"{line.strip()}\n" for line in lines)
    assert {"<", "u", "n", "k", ">", "N", "_"} < set(plain.vocab.words)


def test_one_word_in_one_of_the_texts_makes_it_a_corpus_of_words(tmp_path):
    folder = write_penn(tmp_path / "corpus", spelled=True)
    with open(folder / "test.txt", "a") as file:
        file.write(" ab\n")
    corpus = load(folder)
    assert [corpus.vocab.words[i] for i in corpus.test[-3:]] == ["a", "b", "<eos>"]
    n_characters = len((folder / "valid.txt").read_text().replace(" \n", "\n").replace("\n ", "\n").lstrip())
    assert len(corpus.valid) == n_characters  # of the text as it stands, blanks and all


def test_rules_have_entries_of_their_own(tmp_path):
    folder = write_penn(tmp_path / "corpus")
    words, of_characters = load(folder, "ptb"), load(folder)
    assert len(of_characters.train) > len(words.train)
    assert load(folder, "ptb").train.tolist() == words.train.tolist()
    (folder / ".cache-deq" / "ptb").replace(folder / "elsewhere")
    (folder / ".cache-deq" / "ptb_char").rename(folder / ".cache-deq" / "ptb")  # another rule's, under its name
    assert load(folder, "ptb").train.tolist() == words.train.tolist()


@pytest.mark.parametrize(("dataset", "is_kept"), [("ptb", True), ("ptb_char", False)])
def test_what_an_older_program_encoded_is_kept_for_words(tmp_path, dataset, is_kept):
    folder = write_penn(tmp_path / "corpus")
    before = load(folder, dataset)
    entry = folder / ".cache-deq" / dataset
    record = json.loads((entry / "record.json").read_text())
    del record["rule"]["unit"]
    (entry / "record.json").write_text(json.dumps(record))
    made = (entry / "train.int32").stat().st_ino
    assert load(folder, dataset).checksum == before.checksum
    assert ((entry / "train.int32").stat().st_ino == made) == is_kept


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_spelling_in_pieces(size):
    words = ("<eos>", "ab", "b", "a_c", "語é")
    numbers = np.array([0, 1, 0, 2, 0, 3, 1, 0, 0, 4, 4, 1, 3], np.int32)
    pieces = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    spelling = Spelling(words, n_before_blank(pieces))
    text = "".join(spelling.characters[i] for piece in pieces for i in spelling.of(piece)).replace("<eos>", "\n")
    assert text == "\nab\nb\na_c_ab\n\n語é_語é_ab_a_c"
    assert spelling.characters == ("<eos>", "a", "b", "_", "c", "語", "é")
    assert spelling.of(np.array([], np.int32)).tolist() == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("abc a\n", "a b c _ a <eos>"),
        ("  abc\ta  \n\nb", "a b c _ a <eos> <eos> b <eos>"),
        ("a b _ c\n", "a b _ c <eos>"),
        (" a b c \n a _ c \n", "a b c <eos> a _ c <eos>"),
        ("ab_c 語é\r\n", "a b _ c _ 語 é <eos>"),
        ("ab <eos> c", "a b <eos> c <eos>"),
        ("", ""),
    ],
)
def test_a_text_is_read_as_a_corpus_is(text, tokens):
    assert ids(text) == tokens.split()


def test_unknown_characters(tmp_path):
    with pytest.raises(UserError, match="here, line 3: the character 'x' is not in the vocabulary, which has no <unk>"):
        ids("abc\n<eos> a\nab cxa x\n")
    with pytest.raises(UserError, match="here, line 1: the character '_' is not in"):
        ids("a bc\n", Vocab(["<eos>", "a", "b", "c"]))
    with pytest.raises(UserError, match="here, line 2: the character 'x' is not in"):
        ids("a b\nx\n", Vocab(["<eos>", "a", "b"]))
    with pytest.raises(UserError, match="here, line 2: the character '<' is not in"):
        ids("a b\nab<eos> a\n")
    with pytest.raises(UserError, match="here, line 2: the character '_' is not in"):
        ids("ab <eos> a\na bc", Vocab(["<eos>", "a", "b", "c"]))
    tokens = TextTokens.of(b"ab xax\n", "here", Vocab(["<eos>", "<unk>", "a", "b", "_"]), RULE)
    assert tokens.unknown_in_words() == "characters outside the vocabulary, read as <unk>: 2 of 6 ('x')"


def test_words_of_a_text_of_characters_are_counted_at_their_ends():
    tokens = TextTokens.of(b"abc a\nb \n\n bc", "here", VOCAB, RULE)
    assert "".join(" |"[int(end)] for end in tokens.is_word) == "  | | |   | "
    assert tokens.characters.sum() == len(tokens) == len("abc a\nb\n\nbc\n")


@pytest.mark.parametrize(
    ("unit", "tokens", "text"),
    [
        ("character", "a b _ _ c <eos> <eos> _ a", "ab  c\n\n a"),
        ("word", "a b _ <eos> <eos> c", "a b _\n\nc"),
    ],
)
def test_plain_text(unit, tokens, text):
    assert "".join(map(PlainText(unit).of, tokens.split())) == text


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Outcome:
    """A run on characters."""
    place = tmp_path_factory.mktemp("characters")
    write_penn(place / "corpus")
    outcome = call(
        f"--data {place}/corpus --dataset ptb_char --work_dir {place}/R- --name run {MODEL} {LENGTHS} {COURSE} "
        "--sample 40 --pretrain_steps 2 --eval-interval 2"
    )
    assert outcome.status == 0, outcome.err
    return outcome


def test_a_sample_is_a_plain_text(trained, capsys):
    assert generate([str(trained.folder), "--prompt", "the new", "--length", "60", "--temperature", "2"]) == 0
    out, err = capsys.readouterr()
    assert sum(len(line) for line in out.split("\n")) + out.count("\n") - 1 == 60  # the last line's end is added
    assert "_" not in out
    assert err.startswith("60 characters in ")
    sample = trained.out.split("a sample of the model:\n")[1]
    assert "_" not in sample
    assert generate([str(trained.folder), "--prompt", "Q", "--stop", "xy"]) == 2
    assert "the character 'Q' is not in the vocabulary" in capsys.readouterr().err


def test_scores_are_of_characters(trained):
    model = TrainedModel.load("mine.py", run=str(trained.folder))
    text = TextTokens.of(b" the new u.s. \n it \n", "here", model.vocab, model.rule)
    found = score(model, text, rows=1, per_token=True)
    rows = [line.split("\t") for line in found.tokens.lines(text)]
    assert [row[0] for row in rows] == [*"the_new_u.s.", "<eos>", *"it", "<eos>"]
    bits = -np.nansum(found.tokens.log_p) / math.log(2)
    assert found.bits_per_character == pytest.approx(bits / 15)
    assert found.bits_per_word == pytest.approx(bits / 4)
    assert str(found).startswith(f"here: bits per character {bits / 15:.4f} | perplexity ")


@pytest.mark.parametrize(("folder", "dataset"), SIZES)
def test_published_sizes(folder, dataset, user_cache):
    if not (PENN / folder / "train.txt").exists():
        pytest.skip(f"needs {PENN / folder}: bash get_data.sh {dataset}")
    corpus = load(PENN / folder, dataset)
    assert (len(corpus.vocab), *(len(getattr(corpus, split)) for split in SPLITS)) == SIZES[folder, dataset]


def test_published_files_of_characters_are_those_of_the_words(user_cache):
    if not all((PENN / folder / "train.txt").exists() for folder in ("penn", "penn_char")):
        pytest.skip(f"needs penn and penn_char in {PENN}: bash get_data.sh ptb ptb_char")
    published = load(PENN / "penn_char")
    assert len(published.vocab) == 50
    assert published.checksum == load(PENN / "penn").checksum


def test_few_words_at_a_time(tmp_path, monkeypatch):
    whole = load(write_penn(tmp_path / "a"))
    monkeypatch.setattr(characters, "FEW", 3)
    assert load(write_penn(tmp_path / "b")).checksum == whole.checksum
