"""Adaptive softmax: a head over frequent words and one entry per bin of rarer words, and a softmax in each bin.

Shapes: N tokens, D model width, V vocabulary; bins 0 … n as in `utils.adaptive_embedding`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.adaptive_embedding import (
    INIT_STD,
    AdaptiveEmbedding,
    bin_edges,
    check_bins,
    has_projections,
    table_shapes,
)


class ProjectedAdaptiveLogSoftmax(nn.Module):
    """log p(w | h) = log-softmax of the head at w, or at its bin's entry plus the log-softmax inside the bin.

    Logits of bin i are (h P_i) W_iᵀ + b_i. The head's are those of bin 0, followed by (h P_0) Cᵀ + c, one for each
    further bin, in reverse: the entry of bin i is head column −i (Grave et al., arXiv 1609.04309; projections
    and widths as in Dai et al., arXiv 1901.02860).

    W_i is `out_layers.i.weight` (bin size, d_embed // div_val**i), b_i `out_layers.i.bias`, P_i `out_projs.i.weight`
    (D, that width), C `cluster_weight` (n, d_embed), c `cluster_bias` (n). With div_val 1 one table and one bias hold
    all bins, and with d_embed = D besides there are no projections. Without cutoffs there are no C and c.

    Args:
        n_token: number of words.
        d_embed: width of bin 0.
        d_model: width of the hidden states.
        cutoffs: first word of every bin but the first.
        div_val: factor by which the bins narrow.

    Raises:
        ValueError: for bins that `check_bins` refuses.
    """

    edges: Tensor

    def __init__(self, n_token: int, d_embed: int, d_model: int, cutoffs: Sequence[int] = (), div_val: int = 1):
        super().__init__()
        check_bins(n_token, cutoffs, d_embed, div_val)
        edges = bin_edges(n_token, cutoffs)
        self.register_buffer("edges", torch.tensor(edges), persistent=False)
        self.first_words = edges[:-1]
        self.bin_sizes = [high - low for low, high in pairwise(edges)]
        self.n_clusters = len(cutoffs)
        if cutoffs:
            self.cluster_weight = nn.Parameter(torch.empty(self.n_clusters, d_embed))
            self.cluster_bias = nn.Parameter(torch.empty(self.n_clusters))
        tables = table_shapes(n_token, d_embed, cutoffs, div_val)
        self.out_layers = nn.ModuleList(nn.Linear(width, size) for size, width in tables)
        self.out_projs = nn.ModuleList()
        if has_projections(d_embed, d_model, div_val):
            widths = (d_embed // div_val**i for i in range(self.n_clusters + 1))
            self.out_projs.extend(nn.Linear(width, d_model, bias=False) for width in widths)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=INIT_STD)

    def tie(self, embedding: AdaptiveEmbedding) -> None:
        """Share parameters with `embedding`: every W_i, and P_i for i ≥ 1.

        P_0 stays the softmax's own. With div_val 1 the embedding's only projection then serves every i ≥ 1.

        Raises:
            ValueError: when the embedding was made with other sizes.
        """
        for layer, source in zip(self.out_layers, embedding.emb_layers, strict=True):
            _share_weight(layer, source)
        for i, projection in enumerate(self.out_projs):
            if i > 0:
                _share_weight(projection, embedding.emb_projs[min(i, len(embedding.emb_projs) - 1)])

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """`nll`."""
        return self.nll(hidden, targets)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """−log p(targets | hidden), in the order of the tokens.

        Args:
            hidden: (…, D) floating point.
            targets: (…) int64 word ids, N in all.

        Returns:
            (…), in float32 where the logits are of half precision.

        Raises:
            ValueError: for a target outside the vocabulary.
        """
        # Sorted by target, a bin's tokens are neighbours, and one transfer tells the host where each bin begins.
        ordered, order = targets.flatten().sort(stable=True)
        starts = torch.searchsorted(ordered, self.edges).tolist()
        if starts[0] > 0 or starts[-1] < targets.numel():
            raise ValueError(f"targets must lie in 0 … {sum(self.bin_sizes) - 1}")
        counts = [end - start for start, end in pairwise(starts)]
        hidden = hidden.flatten(0, -2).index_select(0, order)
        layers = self._layers()

        head_logits = self._head_logits(hidden, *layers[0])
        in_bin = ordered.split(counts)
        columns = [in_bin[0], *(torch.full_like(in_bin[i], head_logits.shape[1] - i) for i in range(1, len(in_bin)))]
        nll = _cross_entropy(head_logits, torch.cat(columns))
        if self.n_clusters:
            # Bins without a target take part too: every parameter always gets a gradient.
            tails = [nll.new_zeros(counts[0])]
            for i, rows in enumerate(hidden.split(counts)[1:], start=1):
                logits = F.linear(self._project(i, rows), *layers[i])
                tails.append(_cross_entropy(logits, in_bin[i] - self.first_words[i]))
            nll = nll + torch.cat(tails)
        return torch.empty_like(nll).index_copy(0, order, nll).view(targets.shape)

    def log_prob(self, hidden: Tensor) -> Tensor:
        """log p of every word: (N, D) -> (N, V)."""
        layers = self._layers()
        head = _log_softmax(self._head_logits(hidden, *layers[0]))
        parts = [head[:, : self.bin_sizes[0]]]
        for i in range(1, len(layers)):
            logits = F.linear(self._project(i, hidden), *layers[i])
            parts.append(head[:, -i, None] + _log_softmax(logits))
        return torch.cat(parts, dim=1)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of each bin."""
        if len(self.out_layers) == len(self.bin_sizes):
            return [(layer.weight, layer.bias) for layer in self.out_layers]
        table = self.out_layers[0]
        return list(zip(table.weight.split(self.bin_sizes), table.bias.split(self.bin_sizes), strict=True))

    def _head_logits(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(N, c_1 + n): bin 0's words, then bins n … 1."""
        hidden = self._project(0, hidden)
        words = F.linear(hidden, weight, bias)
        if not self.n_clusters:
            return words
        return torch.cat([words, F.linear(hidden, self.cluster_weight, self.cluster_bias)], dim=1)

    def _project(self, i: int, hidden: Tensor) -> Tensor:
        return hidden @ self.out_projs[i].weight if self.out_projs else hidden


def _share_weight(module: nn.Module, source: nn.Module) -> None:
    if module.weight.shape != source.weight.shape:
        raise ValueError(f"cannot tie weights of shapes {tuple(module.weight.shape)} and {tuple(source.weight.shape)}")
    module.weight = source.weight


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(_at_least_float32(logits), targets, reduction="none")


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(_at_least_float32(logits), dim=1)
