"""The unigram model, which every language model must beat."""

import math

import numpy as np

COUNT_BLOCK = 1 << 22  # tokens


def unigram_counts(ids: np.ndarray, n_token: int) -> np.ndarray:
    """How often each word occurs: (N,) ids -> (V,) int64. Counted in blocks, as `ids` may be a large file's map."""
    blocks = (ids[i : i + COUNT_BLOCK] for i in range(0, len(ids), COUNT_BLOCK))
    return sum((np.bincount(block, minlength=n_token) for block in blocks), np.zeros(n_token, dtype=np.int64))


def unigram_loss(train: np.ndarray, split: np.ndarray, n_token: int) -> float:
    """Mean nll, nats per token, on `split` of the unigram model of `train`, p(w) = (count of w + 1) / (N + V).

    Args:
        train: (N,) token ids the model is estimated on.
        split: token ids it scores.
        n_token: V, number of words.
    """
    log_p = np.log(unigram_counts(train, n_token) + 1.0) - math.log(len(train) + n_token)
    return -float(unigram_counts(split, n_token) @ log_p) / len(split)
