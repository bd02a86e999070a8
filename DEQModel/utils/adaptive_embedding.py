"""Adaptive word embedding: frequent words get wide vectors, rare words narrow ones.

Shapes: n_token V vocabulary, d_embed width of bin 0's vectors, d_model D, and bins 0 … n that the cutoffs
c_1 < … < c_n make of the vocabulary; bin i holds the words c_i ≤ w < c_{i+1}, with c_0 = 0 and c_{n+1} = V.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

INIT_STD = 0.01


def check_bins(n_token: int, cutoffs: Sequence[int], d_embed: int, div_val: int) -> None:
    """Check that the cutoffs split the vocabulary in bins that hold words and have vectors.

    Args:
        n_token: number of words in the vocabulary.
        cutoffs: first word of every bin but the first; empty for a single bin.
        d_embed: width of bin 0's vectors.
        div_val: bin i's vectors have width d_embed // div_val**i.

    Raises:
        ValueError: naming the setting, its value and what to pass.
    """
    shown = " ".join(map(str, cutoffs))
    if d_embed < 1:
        raise ValueError(f"`d_embed` is {d_embed}: pass a width of at least 1")
    if div_val < 1:
        raise ValueError(f"`div_val` is {div_val}: pass 1 for vectors of one width, or more to narrow rare words'")
    if any(low >= high for low, high in zip((0, *cutoffs), cutoffs, strict=False)):
        raise ValueError(f"`cutoffs` are {shown}: pass positive numbers that rise")
    if cutoffs and cutoffs[-1] >= n_token:
        raise ValueError(f"`cutoffs` are {shown}, but the vocabulary has {n_token} words: pass only smaller numbers")
    if d_embed // div_val ** len(cutoffs) == 0:
        raise ValueError(
            f"`div_val` is {div_val}: with `d_embed` {d_embed} and {len(cutoffs)} `cutoffs` ({shown}) the vectors of "
            "the last bin have width 0: pass a smaller `div_val`, fewer `cutoffs` or a larger `d_embed`"
        )


def bin_edges(n_token: int, cutoffs: Sequence[int]) -> tuple[int, ...]:
    """(0, c_1, …, c_n, V): bin i holds the words edges[i] ≤ w < edges[i + 1]."""
    return (0, *cutoffs, n_token)


def table_shapes(n_token: int, d_embed: int, cutoffs: Sequence[int], div_val: int) -> list[tuple[int, int]]:
    """(words, width) of each stored table: one per bin, or a single one for all when div_val is 1."""
    if div_val == 1:
        return [(n_token, d_embed)]
    edges = bin_edges(n_token, cutoffs)
    return [(edges[i + 1] - edges[i], d_embed // div_val**i) for i in range(len(edges) - 1)]


def has_projections(d_embed: int, d_model: int, div_val: int) -> bool:
    """Whether vectors pass through a projection: not when all of them have the model's width."""
    return div_val > 1 or d_embed != d_model


class AdaptiveEmbedding(nn.Module):
    """√D · P_i E_i[w − c_i] for a word w of bin i (Baevski and Auli, arXiv 1809.10853; Dai et al., arXiv 1901.02860).

    E_i is `emb_layers.i.weight` (bin size, d_embed // div_val**i) and P_i `emb_projs.i.weight` (D, that width).
    With div_val 1 all bins share table 0 and projection 0; with d_embed = D besides there is no projection.

    Args:
        n_token: number of words.
        d_embed: width of bin 0's vectors.
        d_model: width of the result.
        cutoffs: first word of every bin but the first.
        div_val: factor by which the vectors narrow from bin to bin.

    Raises:
        ValueError: for bins that `check_bins` refuses.
    """

    cutoffs: Tensor

    def __init__(self, n_token: int, d_embed: int, d_model: int, cutoffs: Sequence[int] = (), div_val: int = 1):
        super().__init__()
        check_bins(n_token, cutoffs, d_embed, div_val)
        self.scale = math.sqrt(d_model)
        tables = table_shapes(n_token, d_embed, cutoffs, div_val)
        first_words = cutoffs if len(tables) > 1 else ()
        self.register_buffer("cutoffs", torch.tensor(first_words, dtype=torch.int64), persistent=False)
        self.first_words = (0, *first_words)
        self.emb_layers = nn.ModuleList(nn.Embedding(*shape) for shape in tables)
        self.emb_projs = nn.ModuleList()
        if has_projections(d_embed, d_model, div_val):
            self.emb_projs.extend(nn.Linear(width, d_model, bias=False) for _, width in tables)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed int64 `tokens` of any shape (*), as (*, d_model).

        Raises:
            IndexError: on a CPU, for a token outside the vocabulary (a device assertion on a GPU).
        """
        if len(self.emb_layers) == 1:
            embedded = self._project(0, self.emb_layers[0](tokens))
        else:
            # Every token goes through every bin, as a zero vector where it does not belong: to pick tokens out, the
            # host would have to wait for a GPU to count them.
            bins = torch.bucketize(tokens, self.cutoffs, right=True)
            parts = [self._embed_bin(i, tokens, bins == i) for i in range(len(self.emb_layers))]
            embedded = sum(parts[1:], start=parts[0])
        return embedded * self.scale

    def _embed_bin(self, i: int, tokens: Tensor, inside: Tensor) -> Tensor:
        rows = torch.where(inside, tokens - self.first_words[i], 0)
        vectors = self.emb_layers[i](rows).masked_fill(~inside.unsqueeze(-1), 0.0)
        return self._project(i, vectors)

    def _project(self, i: int, vectors: Tensor) -> Tensor:
        return self.emb_projs[i](vectors) if self.emb_projs else vectors
