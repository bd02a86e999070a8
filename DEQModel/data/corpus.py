"""Corpora: a vocabulary and the ids of three texts."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.token_cache import cached_corpus
from data.vocabulary import Vocab, VocabularyRule
from system.errors import UserError

SPLITS = ("train", "valid", "test")
DATASETS = {
    "wt103": VocabularyRule(counted=("train",)),
    "wt2": VocabularyRule(counted=SPLITS),
    "ptb": VocabularyRule(counted=SPLITS, lower_case=True),
    "ptb_char": VocabularyRule(counted=SPLITS, unit="character"),
    "text": VocabularyRule(counted=("train",)),
}


@dataclass(frozen=True)
class Corpus:
    """A vocabulary, and the ids of three texts, (N,) int32, read-only memory maps.

    `checksum` tells vocabularies and texts apart: a part for each, as `vocab-train-valid-test`.
    """

    vocab: Vocab
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    checksum: str

    @classmethod
    def load(cls, folder: str | Path, dataset: str, *, progress: bool = True) -> "Corpus":
        """Read `train.txt`, `valid.txt` and `test.txt` of a folder, or what an earlier start made of them.

        Args:
            folder: where the texts are.
            dataset: a key of `DATASETS`, the rule by which tokens are read and numbered.
            progress: show a progress bar while encoding.

        Raises:
            UserError: an unknown dataset; a file that is missing, empty, or not UTF-8; a word outside the
                vocabulary where there is no `<unk>`.
        """
        if dataset not in DATASETS:
            raise UserError(f"--dataset {dataset}: no such dataset; choose one of {', '.join(DATASETS)}")
        folder = Path(folder)
        try:
            texts = _find_texts(folder, archive="demo" if dataset == "text" else dataset)
        except OSError as error:  # most likely a folder that may be listed but not entered
            raise UserError(f"--data {folder}: {error.strerror}; change the folder's permissions") from error
        encoded = cached_corpus(folder, dataset, DATASETS[dataset], texts, progress=progress)
        return cls(encoded.vocab, **encoded.ids, checksum=encoded.checksum)


def _find_texts(folder: Path, archive: str) -> dict[str, Path]:
    remedy = f"put the three texts there, or get them with: bash get_data.sh {archive}"
    if not folder.is_dir():
        raise UserError(f"--data {folder}: there is no such folder; {remedy}")
    texts = {split: folder / f"{split}.txt" for split in SPLITS}
    for path in texts.values():
        if not path.is_file():
            raise UserError(f"--data {folder}: {path.name} is missing; {remedy}")
        if not os.access(path, os.R_OK):
            raise UserError(f"{path}: the file cannot be read; change its permissions")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; {remedy}")
    return texts
