"""A cache damaged on disk is noticed and rebuilt: whatever happened to it, a start gets the right ids."""

import os
import random
import shutil
from pathlib import Path

import pytest

from data import token_cache
from data.token_cache import EncodedCorpus, cached_corpus
from data.vocabulary import VocabularyRule

TEXTS = {"train": "a b a c ü dd\n" * 5, "valid": "b a\n", "test": "c\n"}
FILES = ("words.txt", "record.json", "train.int32", "valid.int32", "test.int32")


pytestmark = pytest.mark.usefixtures("user_cache")


@pytest.fixture
def folder(tmp_path):
    for split, text in TEXTS.items():
        (tmp_path / f"{split}.txt").write_text(text)
    return tmp_path


@pytest.fixture
def entry(folder):
    load(folder)
    return folder / ".cache-deq" / "mine"


def load(folder: Path) -> EncodedCorpus:
    texts = {split: folder / f"{split}.txt" for split in TEXTS}
    return cached_corpus(folder, "mine", VocabularyRule(("train",)), texts, progress=False)


def content(corpus: EncodedCorpus) -> tuple:
    return corpus.vocab.words, {split: ids.tolist() for split, ids in corpus.ids.items()}, corpus.checksum


def damaged(whole: bytes, rng: random.Random) -> bytes:
    changed = bytearray(whole)
    for _ in range(rng.choice((1, 1, 3))):
        start = rng.randrange(len(changed) + 1)
        stop = min(start + rng.choice((1, 4, 16, 64)), len(changed))
        kind = rng.choice(("flip", "flip", "flip", "zeros", "text", "cut", "insert", "delete"))
        if kind == "flip" and start < stop:
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == "zeros":
            changed[start:stop] = bytes(stop - start)
        elif kind == "text":
            changed[start:stop] = bytes(rng.choices(b'0123456789"{}[]:,truefalsn -.eE', k=stop - start))
        elif kind == "cut":
            del changed[start:]
        elif kind == "insert":
            changed[start:start] = rng.randbytes(8)
        elif kind == "delete":
            del changed[start:stop]
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("settled", [True, False])
def test_random_damage(folder, entry, settled, monkeypatch):
    monkeypatch.setattr(token_cache, "SETTLING_TIME", -1e9 if settled else 1e9)
    right, rng = content(load(folder)), random.Random(0)
    for _ in range(150):
        path = entry / rng.choice((*FILES, "record.json", "record.json"))
        path.write_bytes(damaged(path.read_bytes(), rng))
        assert content(load(folder)) == right


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


REPLACEMENTS = {
    "nothing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "a full folder": lambda path: (path / "more").mkdir(parents=True),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "brackets": lambda path: path.write_text("[" * 100_000),
    "a number without end": lambda path: path.write_text("9" * 5000),
}


@pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS)
@pytest.mark.parametrize("name", [*(f"mine/{file}" for file in FILES), "mine", "lock", "."])
def test_something_else_in_its_place(folder, entry, name, replace):
    right = content(load(folder))
    path = entry.parent / name
    remove(path)
    replace(path)
    for _ in range(2):
        assert content(load(folder)) == right


def test_a_record_without_a_texts_sha256(folder, entry):
    right = content(load(folder))
    record = (entry / "record.json").read_text()
    (entry / "record.json").write_text(record.replace("sha256", "sha25x", 1))
    assert content(load(folder)) == right


@pytest.mark.parametrize("name", FILES)
def test_damage_is_told_once(folder, entry, name, capsys):
    (entry / name).write_bytes(b"")
    load(folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{entry}: the encoded corpus is damaged, encoding it anew"
    load(folder)
    assert capsys.readouterr().err == ""


def test_new_texts_are_no_damage(folder, entry, capsys):
    (folder / "train.txt").write_text("a c b\n")
    load(folder)
    assert "damaged" not in capsys.readouterr().err


def test_the_checksum_has_parts_of_the_vocabulary_and_of_each_text(folder, entry):
    first = load(folder).checksum.split("-")
    assert list(map(len, first)) == [16, 8, 8, 8]
    for part, split in enumerate(TEXTS, start=1):
        (folder / f"{split}.txt").write_text(f"{TEXTS[split].rstrip()} a\n")  # the same words, another text
        changed = load(folder).checksum.split("-")
        assert [i for i, pair in enumerate(zip(first, changed, strict=True)) if pair[0] != pair[1]] == [part]
        (folder / f"{split}.txt").write_text(TEXTS[split])
        assert load(folder).checksum.split("-") == first


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", [*(f"mine/{file}" for file in FILES), "mine", "lock", "."])
def test_what_may_not_be_read(folder, entry, name):
    right = content(load(folder))
    path = entry.parent / name
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        assert content(load(folder)) == right
    finally:
        if path.exists():
            path.chmod(mode)
