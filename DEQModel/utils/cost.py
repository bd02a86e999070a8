"""What word embeddings, softmaxes and dropout cost.

Shape legend: N tokens, D width of the states, V words; bin i of an adaptive one has V_i words of width w_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from modules.cost import Piece, passes, product
from utils.adaptive_embedding import bin_edges, has_projections, table_shapes


def zipf_shares(n_token: int, cutoffs: Sequence[int]) -> tuple[float, ...]:
    """Share of the tokens in each bin, where the w-th most frequent word has a frequency ∝ 1 / w.

    Σ_{a < w ≤ b} 1 / w ≈ ln((b + 1) / (a + 1)).
    """
    edges = bin_edges(n_token, cutoffs)
    return tuple(math.log((high + 1) / (low + 1)) / math.log(n_token + 1) for low, high in pairwise(edges))


def masked(entries: float) -> Piece:
    """x · mask, with a mask that many entries share."""
    return Piece(passes(entries, 2, 1), passes(entries, 2, 1))


def dropped(entries: float) -> Piece:
    """x · mask, with a mask of as many entries, in floating point as on a CPU: drawn (1), scaled (2), applied (3)."""
    return Piece(passes(entries, 1 + 2 + 3, 3), passes(entries, 3, 1), entries)


def lookup(n_tokens: float, table: float, width: float) -> Piece:
    """Rows of a table of so many entries. Its gradient is dense: zeros everywhere (1 pass), to which rows are added."""
    rows = n_tokens * width
    return Piece(passes(rows, 2, 1), passes(table, 1, 1) + passes(rows, 3, 1))


def adaptive_embedding(
    n_tokens: float, n_token: int, d_embed: int, d_model: int, cutoffs: Sequence[int], div_val: int
) -> Piece:
    """√D · P_i E_i[w]: every token goes through every table, (N, w_i) × (w_i, D)."""
    whole = Piece(passes(n_tokens * d_model, 2, 1), passes(n_tokens * d_model, 2, 1))  # times √D
    tables = table_shapes(n_token, d_embed, cutoffs, div_val)
    for size, width in tables:
        whole += lookup(n_tokens, size * width, width)
        if len(tables) > 1:  # those that do not belong become zero; the bins' vectors add up
            add = passes(n_tokens * d_model, 3, 1)
            whole += Piece(passes(n_tokens * width, 2, 1) + add, passes(n_tokens * width, 2, 1))
        if has_projections(d_embed, d_model, div_val):
            projection = product(n_tokens, width, d_model)
            whole += Piece(projection, 2 * projection, n_tokens * width)
    return whole


def _cross_entropy(n_tokens: float, classes: float) -> Piece:
    """Log-softmax (3 passes), whose result is kept; its gradient (3), which begins as zeros but for a word (1)."""
    entries = n_tokens * classes
    return Piece(passes(entries, 3, 2), passes(entries, 4, 2), entries)


def adaptive_softmax(
    n_tokens: float,
    n_token: int,
    d_embed: int,
    d_model: int,
    cutoffs: Sequence[int],
    div_val: int,
    shares: Sequence[float],
) -> Piece:
    """A head over bin 0's words and n bins' entries, for all tokens; in bin i a softmax for its share N_i of them.

    projection i   (N_i, D) × (D, w_i)     where there are projections
    words of bin i (N_i, w_i) × (w_i, V_i), N_0 = N
    bins' entries  (N, w_0) × (w_0, n)

    Where one table has the words of all bins, the gradients of its parts are put side by side (2 passes).
    """
    edges = bin_edges(n_token, cutoffs)
    hidden = passes(n_tokens * d_model, 2, 1)  # sorted by target
    whole = Piece(hidden, hidden, n_tokens * d_model)
    for i, (low, high) in enumerate(pairwise(edges)):
        rows = n_tokens if i == 0 else n_tokens * shares[i]
        width, further = d_embed // div_val**i, len(cutoffs) if i == 0 else 0
        logits = product(rows, width, high - low) + product(rows, width, further)
        whole += Piece(logits, 2 * logits) + _cross_entropy(rows, high - low + further)
        if further:  # words and entries side by side
            joined = passes(rows * (high - low + further), 2, 1)
            whole += Piece(joined, joined)
        if has_projections(d_embed, d_model, div_val):
            projection = product(rows, d_model, width)
            whole += Piece(projection, 2 * projection, rows * width)
    if cutoffs and div_val == 1:
        whole += Piece(backward=passes(n_token * d_embed, 2, 1))
    return whole


def tied_tables(n_token: int, d_embed: int, cutoffs: Sequence[int] = (), div_val: int = 1) -> Piece:
    """Tables of words that embedding and softmax share have a gradient of each, which are added up (3 passes)."""
    tables = table_shapes(n_token, d_embed, cutoffs, div_val)
    return Piece(backward=passes(sum(size * width for size, width in tables), 3, len(tables)))


def softmax(n_tokens: float, n_token: int, d_model: int) -> Piece:
    """(N, D) × (D, V)."""
    logits = product(n_tokens, d_model, n_token)
    return Piece(logits, 2 * logits, n_tokens * d_model) + _cross_entropy(n_tokens, n_token)


def mixture_of_softmaxes(
    n_tokens: float, n_token: int, d_model: int, d_embed: int, n_experts: int, *, dropout: bool
) -> Piece:
    """K softmaxes of word vectors of width E:

    prior (N, D) × (D, K), latents (N, D) × (D, K·E), words (N·K, E) × (E, V)
    """
    latents = n_tokens * n_experts * d_embed
    products = (
        product(n_tokens, d_model, n_experts)
        + product(n_tokens, d_model, n_experts * d_embed)
        + product(n_tokens * n_experts, d_embed, n_token)
    )
    tanh = Piece(passes(latents, 2, 1), passes(latents, 3, 1), latents * (2 if dropout else 1))
    return Piece(products, 2 * products, n_tokens * d_model) + tanh + _cross_entropy(n_tokens * n_experts, n_token)
