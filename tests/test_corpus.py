"""The cache of encoded corpora, and what users get wrong."""

import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import text_encoding, token_cache
from data.corpus import SPLITS, Corpus
from system.errors import UserError

IMPORT_ROOT = Path(token_cache.__file__).parents[1]
LOAD = """
import sys
from pathlib import Path
from data import token_cache
from data.vocabulary import VocabularyRule
{patch}
folder = Path(sys.argv[1])
splits = ("train", "valid", "test")
texts = {{split: folder / (split + ".txt") for split in splits}}
corpus = token_cache.cached_corpus(folder, "wt2", VocabularyRule(splits), texts, progress=False)
print(corpus.ids["train"].tolist())
"""


pytestmark = pytest.mark.usefixtures("user_cache")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "a b a c\n", "b a\n", "c\n")
    return tmp_path


def write(folder, *texts):
    for split, text in zip(SPLITS, texts, strict=True):
        (folder / f"{split}.txt").write_text(text)


def load(folder, dataset="wt2"):
    return Corpus.load(folder, dataset, progress=False)


def start_load(folder, patch=""):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD.format(patch=patch), str(folder)],
        cwd=IMPORT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def encodings(monkeypatch):
    """A list that gets longer with every encoding."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return text_encoding.encode_corpus(*args, **kwargs)

    monkeypatch.setattr(token_cache, "encode_corpus", counted)
    return calls


def test_a_later_start_maps_the_first_ones_arrays(folder, encodings):
    first, second = load(folder), load(folder)
    assert len(encodings) == 1
    assert first.vocab.words == second.vocab.words == ("<eos>", "a", "b", "c")
    assert isinstance(second.train, np.memmap)
    assert second.train.tolist() == first.train.tolist() == [1, 2, 1, 3, 0]
    assert not list(folder.glob(".cache-deq/making-*"))


def test_each_rule_has_its_own_entry(folder, encodings):
    for dataset in ("wt2", "text", "wt2", "text"):
        load(folder, dataset)
    assert len(encodings) == 2


def test_new_content_is_encoded_anew_even_at_once_and_of_equal_size(folder, encodings):
    load(folder)
    write(folder, "b b b c\n", "b c\n", "c\n")
    assert load(folder).vocab.words == ("<eos>", "b", "c")
    assert len(encodings) == 2


def test_new_time_stamps_alone_are_not(folder, encodings, monkeypatch):
    monkeypatch.setattr(token_cache, "SETTLING_TIME", -1e9)
    load(folder)
    (folder / "train.txt").touch()
    load(folder)
    assert len(encodings) == 1
    monkeypatch.setattr(token_cache.SourceText, "sha256", property(lambda self: pytest.fail("was read")))
    load(folder)  # trusts the stamps, which the start before has renewed


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "train.int32").write_bytes(b"\0" * 16),
        lambda entry: (entry / "train.int32").write_bytes(b"\x7f" * 20),  # as long as it was
        lambda entry: (entry / "valid.int32").unlink(),
        lambda entry: (entry / "words.txt").write_text("<eos>\na\nb\nd"),
        lambda entry: (entry / "record.json").write_text('{"format": 1'),
        lambda entry: (entry / "record.json").write_text("[]"),
        lambda entry: (entry / "record.json").unlink(),
    ],
)
def test_a_damaged_entry_is_replaced(folder, encodings, damage):
    load(folder)
    damage(folder / ".cache-deq" / "wt2")
    corpus = load(folder)
    assert len(encodings) == 2
    assert corpus.vocab.words == ("<eos>", "a", "b", "c")
    assert (corpus.train.tolist(), corpus.valid.tolist()) == ([1, 2, 1, 3, 0], [2, 1, 0])


def test_a_damaged_entry_is_named(folder, capsys):
    load(folder)
    assert "damaged" not in capsys.readouterr().err
    (folder / ".cache-deq" / "wt2" / "test.int32").write_bytes(b"\x7f" * 8)
    load(folder)
    assert f"{folder}/.cache-deq/wt2: the encoded corpus is damaged, encoding it anew" in capsys.readouterr().err


@pytest.mark.parametrize("large", [1 << 26, 8])  # read by this process, and by workers
def test_a_byte_order_mark_is_dropped_and_named(folder, monkeypatch, capsys, large):
    monkeypatch.setattr(text_encoding, "LARGE", large)
    write(folder, "a b a c\n" * 9, "b a\n", "c\n")
    without = load(folder)
    for split in ("train", "test"):
        path = folder / f"{split}.txt"
        path.write_text(path.read_text(), encoding="utf-8-sig")
    corpus = load(folder)
    assert corpus.vocab.words == without.vocab.words
    assert all(getattr(corpus, split).tolist() == getattr(without, split).tolist() for split in SPLITS)
    assert corpus.checksum == without.checksum
    assert capsys.readouterr().err.splitlines() == [
        f"note: {folder}/{split}.txt starts with a byte order mark, which is dropped" for split in ("train", "test")
    ]


def test_an_unknown_word_is_told_without_the_byte_order_mark(folder):
    (folder / "test.txt").write_text("d b\n", encoding="utf-8-sig")
    with pytest.raises(UserError, match=r"test\.txt, line 1: the word 'd' is not"):
        load(folder, "text")


def test_what_an_earlier_version_encoded_is_encoded_anew(folder, encodings):
    load(folder)
    path = folder / ".cache-deq" / "wt2" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"format": 2}))  # which kept byte order marks
    load(folder)
    assert len(encodings) == 2


def test_a_killed_process_leaves_nothing_that_is_taken_for_an_entry(folder, encodings):
    hang = "import time; token_cache._sync = lambda file: (print('here', flush=True), time.sleep(60))"
    process = start_load(folder, hang)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in folder.glob(".cache-deq/making-*/new/record.json")] == ["record.json"]
    assert load(folder).train.tolist() == [1, 2, 1, 3, 0]
    assert len(encodings) == 1
    assert sorted(path.name for path in (folder / ".cache-deq").iterdir()) == ["lock", "wt2"]


def test_of_two_processes_one_waits_and_uses_what_the_other_made(folder):
    load(folder)
    with open(folder / ".cache-deq" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start_load(folder, "token_cache.encode_corpus = None")
        assert "waiting for another process" in process.stderr.readline()
        assert process.poll() is None
    out, err = process.communicate()
    assert (out, err) == ("[1, 2, 1, 3, 0]\n", "")


def test_two_processes_at_once(folder):
    processes = [start_load(folder) for _ in range(2)]
    results = [process.communicate()[0] for process in processes]
    assert results == ["[1, 2, 1, 3, 0]\n"] * 2


def test_a_folder_that_cannot_be_written_is_cached_in_the_users(folder, user_cache, encodings):
    (folder / ".cache-deq").write_text("in the way")
    assert load(folder).train.tolist() == load(folder).train.tolist() == [1, 2, 1, 3, 0]
    assert len(encodings) == 1
    assert list(user_cache.glob("deq/*/wt2/train.int32"))


def test_nowhere_to_write(folder, user_cache):
    (folder / ".cache-deq").write_text("in the way")
    (user_cache / "deq").write_text("in the way")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        load(folder)


def test_a_text_that_changes_while_it_is_read(folder, monkeypatch):
    def encode(texts, *args, **kwargs):
        texts["valid"].write_text("b c d\n")
        return text_encoding.encode_corpus(texts, *args, **kwargs)

    monkeypatch.setattr(token_cache, "encode_corpus", encode)
    with pytest.raises(UserError, match=r"valid\.txt.*changed"):
        load(folder)
    assert not (folder / ".cache-deq" / "wt2").exists()


@pytest.mark.parametrize("large", [1 << 26, 8])  # read by this process, and by workers
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"b c\r\nc\n\nna\xefve\n c\n", "line 4: bytes that are not UTF-8; convert the file to UTF-8"),
        (b"b c\r\nc\n\na\0b\n c\n", "line 4: a NUL byte, as in UTF-16 or a damaged file; convert the file to UTF-8"),
        ("b c\nc\n".encode("utf-16-le"), "line 1: a NUL byte, as in"),
        ("b c\nc\n".encode("utf-16"), "line 1: bytes that are not UTF-8"),
        (b"b c\na b c\n\0", "line 3: a NUL byte"),
    ],
)
def test_bytes_that_are_no_text(folder, monkeypatch, large, content, message):
    monkeypatch.setattr(text_encoding, "LARGE", large)
    (folder / "valid.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"valid\.txt, {message}"):
        load(folder)
    assert sorted(path.name for path in (folder / ".cache-deq").iterdir()) == ["lock"]


def test_a_worker_that_fails_is_no_silent_loss(folder, monkeypatch):
    monkeypatch.setattr(text_encoding, "LARGE", 8)
    monkeypatch.setattr(sys, "executable", "false")
    (folder / "train.txt").write_text("a\n" * 50)
    with pytest.raises(UserError, match="ended with status"):
        load(folder)


def test_a_word_outside_the_vocabulary(folder):
    (folder / "test.txt").write_text("c b\n\na d b e\n")
    with pytest.raises(UserError, match=r"test\.txt, line 3: the word 'd' .*<unk>"):
        load(folder, "text")
    (folder / "train.txt").write_text("a b c <unk>\n")
    assert load(folder, "text").test.tolist() == [3, 2, 0, 0, 1, 4, 2, 4, 0]


@pytest.mark.parametrize("text", ["", "\n \n\n"])
def test_a_file_without_words(folder, text):
    (folder / "valid.txt").write_text(text)
    with pytest.raises(UserError, match=r"valid\.txt: the file (is empty|holds no words)"):
        load(folder)


def test_missing_texts(folder):
    (folder / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.txt is missing; .*bash get_data\.sh wt2"):
        load(folder)
    with pytest.raises(UserError, match=r"no such folder; .*bash get_data\.sh demo"):
        load(folder / "nowhere", "text")
    with pytest.raises(UserError, match=r"--dataset lm1b: .*wt103, wt2, ptb, ptb_char, text"):
        load(folder, "lm1b")
