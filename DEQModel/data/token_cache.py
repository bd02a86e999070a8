"""Encoded corpora on disk: encoded once, memory-mapped at every later start.

A cache folder holds one entry a dataset rule: `words.txt`, raw ids in one `<split>.int32` a split, and `record.json`
with the rule and the sha256 of each text, which are the entry's key, and checksums of the rest. An entry is made
in a folder beside it and renamed into place once it is complete and on disk, all under a lock: a process that is
cut off leaves nothing that could be taken for an entry, and of two that start at once one encodes and one waits.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

import numpy as np

from data.text_encoding import encode_corpus, id_file
from data.text_numbering import ID_TYPE
from data.vocabulary import Vocab, VocabularyRule
from system.errors import UserError

FORMAT = 3  # of the entries; raise it when they, or the numbering, change
TIME_TO_OPEN = 2.0  # seconds; more than an entry of 100 M tokens takes
SETTLING_TIME = 2.0  # seconds; coarser than the time stamps of any usual file system


@dataclass(frozen=True)
class EncodedCorpus:
    """A vocabulary, and split name to (N,) int32 ids, read-only memory maps.

    `checksum` tells whether two are the same: `<vocabulary>-<train>-<valid>-<test>`.
    """

    vocab: Vocab
    ids: Mapping[str, np.ndarray]
    checksum: str


def cached_corpus(
    folder: Path, name: str, rule: VocabularyRule, texts: Mapping[str, Path], *, progress: bool
) -> EncodedCorpus:
    """Encode a corpus, or map what an earlier start encoded.

    The cache lies in the corpus's folder, or in the user's cache folder where that one cannot be written. A text
    whose size and time stamps (content's and inode's) are the recorded ones is taken for unchanged; the content
    of any other is compared by sha256.

    Args:
        folder: the corpus's folder.
        name: of the dataset rule; an entry of the same name that does not fit the texts is replaced.
        rule, texts, progress: as for `encode_corpus`.

    Raises:
        UserError: as `encode_corpus` does, or no cache folder can be written.
    """
    sources = {split: SourceText(path) for split, path in texts.items()}
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    of_folder = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    problems = []
    for place in (folder / ".cache-deq", Path(home) / "deq" / of_folder):
        entry = place / name
        found = None
        try:
            with _locked(place):
                found = _open_entry(entry, rule, sources)
                if found is None:
                    _make_entry(entry, rule, sources, progress)
                    found = _open_entry(entry, rule, sources)
                _renew_stamps(entry / "record.json", sources)
        except OSError as error:
            problems.append(str(error))
            found = found or _open_entry(entry, rule, sources)  # a folder that cannot be written may be read
        if found is not None:
            return found
    raise UserError(
        f"--data {folder}: the encoded corpus cannot be written ({'; '.join(problems)});"
        f" make room, or set XDG_CACHE_HOME to a folder that can be written"
    )


class SourceText:
    """A text file with two fingerprints: a stamp that is quickly taken, and the sha256 of its content."""

    def __init__(self, path: Path):
        self.path = path
        self.stamp = _stamp(path)
        # A file that was written this very moment could be written again without a change of its time stamps.
        self.settled = time.time() - max(self.stamp[1:]) / 1e9 > SETTLING_TIME

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def is_the_one_of(self, record: dict) -> bool:
        sha256, stamp = record["sha256"], record["stamp"]  # a record without either is damaged
        return stamp == self.stamp or sha256 == self.sha256

    def record(self, sha256: str) -> dict:
        return {"sha256": sha256, "stamp": self.stamp if self.settled else None}

    def check_unchanged(self) -> None:
        if _stamp(self.path) != self.stamp:
            raise UserError(f"{self.path}: the file was changed while it was read; start again")


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, and clear away what a process that was cut off has left in it."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        if not _lock_soon(lock):
            print(f"waiting for another process that encodes {place.parent}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in place.glob("making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _lock_soon(lock: TextIO) -> bool:
    """Lock a file within the time that another process takes which encodes nothing."""
    deadline = time.monotonic() + TIME_TO_OPEN
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(TIME_TO_OPEN / 100)


def _make_entry(entry: Path, rule: VocabularyRule, sources: Mapping[str, SourceText], progress: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="making-", dir=entry.parent) as making:
        new = Path(making, "new")
        new.mkdir()
        texts = {split: source.path for split, source in sources.items()}
        words = "\n".join(encode_corpus(texts, rule, new, progress=progress)).encode()
        (new / "words.txt").write_bytes(words)
        record = {
            "format": FORMAT,
            "rule": asdict(rule),
            "texts": {split: source.record(source.sha256) for split, source in sources.items()},
            "words_sha256": hashlib.sha256(words).hexdigest(),
            "array_crc32": {split: _crc32(id_file(new, split)) for split in sources},
        }
        _write_json(new / "record.json", record)
        for source in sources.values():
            source.check_unchanged()
        for file in new.iterdir():
            _sync(file)
        if entry.exists():
            entry.rename(Path(making, "old"))
        new.rename(entry)


def _open_entry(entry: Path, rule: VocabularyRule, sources: Mapping[str, SourceText]) -> EncodedCorpus | None:
    """The entry, if it is whole and of these texts under this rule."""
    if not os.path.exists(entry):
        return None
    try:
        record = json.loads((entry / "record.json").read_bytes())
        # older programs knew no other unit
        fits = (
            record["format"] == FORMAT
            and {"unit": "word"} | record["rule"] == json.loads(json.dumps(asdict(rule)))
            and all(source.is_the_one_of(record["texts"][split]) for split, source in sources.items())
        )
        if not fits:
            return None
        words = (entry / "words.txt").read_bytes()
        words_sha256 = hashlib.sha256(words).hexdigest()
        array_crc32 = {split: _crc32(id_file(entry, split)) for split in sources}
        if record["words_sha256"] == words_sha256 and record["array_crc32"] == array_crc32:
            ids = {split: np.memmap(id_file(entry, split), ID_TYPE, mode="r") for split in sources}
            checksum = "-".join([words_sha256[:16], *(f"{crc32:08x}" for crc32 in array_crc32.values())])
            return EncodedCorpus(Vocab(words.decode().split("\n")), ids, checksum)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # what damaged files raise
    print(f"{entry}: the encoded corpus is damaged, encoding it anew", file=sys.stderr, flush=True)
    return None


def _renew_stamps(path: Path, sources: Mapping[str, SourceText]) -> None:
    """Spare the next start from reading texts that have new stamps and their old content."""
    record = json.loads(path.read_bytes())
    texts = {split: source.record(record["texts"][split]["sha256"]) for split, source in sources.items()}
    if texts != record["texts"]:
        draft = path.with_suffix(".draft")
        _write_json(draft, {**record, "texts": texts})
        draft.replace(path)


def _crc32(path: Path) -> int:
    """A checksum that takes 0.2 s for 100 M tokens: an id outside the vocabulary must not reach the model."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _sync(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
