"""How many words a model will know, and how often which: of a corpus where there is one, or of a published one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from config.settings import Settings
from data.corpus import Corpus
from system.errors import UserError
from utils.adaptive_embedding import bin_edges
from utils.cost import zipf_shares

PUBLISHED: Mapping[str, int] = {"wt103": 267_735, "wt2": 33_278, "ptb": 10_000, "ptb_char": 50}  # dataset -> words


@dataclass(frozen=True)
class Words:
    """A vocabulary, as far as costs depend on it.

    Attributes:
        n_token: V.
        source: where the number is from.
        counts: occurrences of each word, (V,); None where nobody knows.
    """

    n_token: int
    source: str
    counts: np.ndarray | None = None

    @classmethod
    def of(cls, settings: Settings) -> Words:
        """Those that settings name: a number, or else those of the corpus, or of its dataset as it was published.

        Raises:
            UserError: neither of them is known.
        """
        if settings.cost_vocabulary:
            return cls(settings.cost_vocabulary, "as given")
        if Path(settings.data, "train.txt").exists():
            corpus = Corpus.load(settings.data, settings.dataset)
            return cls(len(corpus.vocab), settings.data, np.bincount(corpus.train, minlength=len(corpus.vocab)))
        if settings.dataset in PUBLISHED:
            return cls(PUBLISHED[settings.dataset], f"as {settings.dataset} has")
        raise UserError(
            f"--cost: the number of words is unknown, as --data {settings.data} has no train.txt: pass "
            "--cost_vocabulary N, or the corpus"
        )

    def shares(self, cutoffs: Sequence[int]) -> tuple[float, ...]:
        """Share of the tokens in each bin; by Zipf's law where nobody has counted them."""
        if self.counts is None:
            return zipf_shares(self.n_token, cutoffs)
        bins = [self.counts[low:high].sum() for low, high in pairwise(bin_edges(self.n_token, cutoffs))]
        return tuple(float(share) for share in np.array(bins) / self.counts.sum())
