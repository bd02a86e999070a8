"""Text files to files of token ids under one vocabulary, in bounded memory.

Each text, a large one in two halves at the same time, is numbered by first occurrence while it is read, once. Then the
words and counts of the numbered texts are merged in their order, and the numbers replaced by the final ids. Thus
ties in the counts are settled by first occurrence, whatever the parts. Where the tokens are characters, the numbered
words are spelled before they are merged, unless the words of all texts are single characters.
"""

import codecs
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.characters import are_characters, spell
from data.text_mistakes import no_text, unknown_token
from data.text_numbering import ID_TYPE, NO_TEXT, NumberedText, number_text
from data.vocabulary import EOS, UNK, VocabularyRule
from system.errors import UserError
from system.progress import is_terminal, progress_bar

LARGE = 1 << 26  # bytes; from here on two processes read a text


def encode_corpus(texts: Mapping[str, Path], rule: VocabularyRule, out: Path, *, progress: bool) -> list[str]:
    """Encode the texts of a corpus under one vocabulary.

    Args:
        texts: split name to UTF-8 text file.
        rule: which splits are counted, whether to lower-case, and what a token is.
        out: an existing folder, which gets an `id_file` of raw little-endian int32 ids for each split.
        progress: show a progress bar in bytes on standard error, or one line where that is no terminal.

    Returns:
        The V words in the order of their ids, which is the one documented at `Vocab`.

    Raises:
        UserError: a file holds no words, or bytes that are not UTF-8 or NUL, or a word outside the vocabulary where
            there is no `<unk>`.
    """
    n_bytes = sum(path.stat().st_size for path in texts.values())
    for path in filter(_has_byte_order_mark, texts.values()):
        print(f"note: {path} starts with a byte order mark, which is dropped", file=sys.stderr)
    if progress and not is_terminal(sys.stderr):
        print(f"encoding {n_bytes / 1e6:,.1f} MB of text", file=sys.stderr, flush=True)
    with (
        progress_bar(n_bytes, "encoding", unit="B", hidden=not progress) as bar,
        tempfile.TemporaryDirectory(dir=out) as scratch,
    ):
        numbered = {
            split: _number_in_parts(path, rule, Path(scratch, split), bar.update) for split, path in texts.items()
        }
        every = [part for parts in numbered.values() for part in parts]
        spelled = rule.unit == "character" and not all(are_characters(part.words()) for part in every)
        for part in every if spelled else ():
            spell(part)
        words = _vocabulary([part for split in rule.counted for part in numbered[split]])
        ids = {word: i for i, word in enumerate(words)}
        for split, parts in numbered.items():
            if not _write_ids(parts, ids, id_file(out, split)):
                of_what = f"the training text, which has no {UNK} either"
                remedy = f"replace rare {rule.unit}s of the training text by {UNK}"
                with open(texts[split], "rb") as file:
                    raise unknown_token(texts[split], file, rule, ids, of_what, remedy, spelled=spelled)
    return words


def _has_byte_order_mark(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def id_file(folder: Path, split: str) -> Path:
    """Where the ids of a split are kept."""
    return folder / f"{split}.int32"


def _number_in_parts(
    path: Path, rule: VocabularyRule, stem: Path, advance: Callable[[int], object]
) -> list[NumberedText]:
    ranges = list(pairwise(_line_starts(path, n_parts=2 if path.stat().st_size >= LARGE else 1)))
    stems = [stem.with_name(f"{stem.name}{i}") for i in range(len(ranges))]
    parts = [NumberedText.at(stem) for stem in stems]
    try:
        if len(ranges) == 1:
            number_text(path, *ranges[0], parts[0], rule.lower_case, advance)
        else:
            jobs = [
                [path, *map(str, span), stem, str(rule.lower_case)] for span, stem in zip(ranges, stems, strict=True)
            ]
            _run_workers(jobs, advance)
    except UnicodeError:
        with open(path, "rb") as file:
            raise no_text(path, file) from None
    if all(part.words() == [EOS] for part in parts):
        raise UserError(f"{path}: the file holds no words; put a text in its place")
    return parts


def _line_starts(path: Path, n_parts: int) -> list[int]:
    """Places that cut a file into about equal parts, each the start of a line: 0, …, the file's size."""
    size = path.stat().st_size
    starts = {0, size}
    with open(path, "rb") as file:
        for i in range(1, n_parts):
            file.seek(size * i // n_parts)
            while (piece := file.readline(1 << 20)) and not piece.endswith(b"\n"):
                pass
            starts.add(file.tell())
    return sorted(starts)


def _run_workers(jobs: Sequence[Sequence[str | Path]], advance: Callable[[int], object]) -> None:
    """Number the parts of a text in a process each.

    Programs of their own: forking would copy the locks of this process's threads, and `multiprocessing` would run
    the main script again.
    """
    command = [sys.executable, "-m", "data.text_numbering"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers: list[subprocess.Popen] = []
    try:
        for job in jobs:
            workers.append(
                subprocess.Popen([*command, *job], env=environment, stdout=subprocess.PIPE, start_new_session=True)
            )
        with selectors.DefaultSelector() as reports:
            for worker in workers:
                reports.register(worker.stdout, selectors.EVENT_READ)
            while reports.get_map():
                for ready, _ in reports.select():
                    if line := ready.fileobj.readline():
                        advance(int(line))
                    else:
                        reports.unregister(ready.fileobj)
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        for worker in workers:
            worker.stdout.close()
            worker.wait()
    for worker in workers:
        if worker.returncode == NO_TEXT:
            raise UnicodeError("in a worker")
        if worker.returncode:
            raise OSError(f"an encoding process ended with status {worker.returncode}")


def _vocabulary(counted: Sequence[NumberedText]) -> list[str]:
    """The words in the order of their ids."""
    totals: dict[str, int] = {}  # keeps the order of first occurrence
    for part in counted:
        for word, count in zip(part.words(), part.counts().tolist(), strict=True):
            totals[word] = totals.get(word, 0) + count
    return sorted(totals, key=lambda word: (word != EOS, -totals[word]))


def _write_ids(parts: Sequence[NumberedText], ids: Mapping[str, int], target: Path) -> bool:
    """Join the parts of a text under their final ids; false where a word has none and there is no `<unk>`."""
    unknown = ids.get(UNK, -1)
    with open(target, "wb") as out:
        for part in parts:
            table = np.array([ids.get(word, unknown) for word in part.words()], ID_TYPE)
            if table.min() < 0:
                return False
            for numbers in part.chunks():
                out.write(table[numbers].data)
            part.delete()
    return True
