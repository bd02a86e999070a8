"""Softmax over the whole of a small vocabulary, and a mixture of several.

Shapes: D width of the hidden states, V words, K experts, E width of the word vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.optimizations import masked, variational_mask


@dataclass(frozen=True)
class Softmax:
    """log p(w | h) = log-softmax of W h + b at w.

    Attributes:
        decoder: W (V, D) and b (V,).
    """

    decoder: nn.Linear

    def parameters(self) -> Iterator[nn.Parameter]:
        """W and b."""
        return self.decoder.parameters()

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """−log p(targets | hidden): (…, D), (…) -> (…)."""
        logits = self.decoder(hidden).flatten(0, -2)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)

    def log_prob(self, hidden: Tensor) -> Tensor:
        """log p of every word: (…, D) -> (…, V)."""
        return F.log_softmax(self.decoder(hidden), dim=-1)


@dataclass(frozen=True)
class MixtureOfSoftmaxes:
    """log p(w | h) = log Σ_k π_k(h) softmax(W tanh(L_k h + l_k) + b)_w with π = softmax(P h).

    One softmax has logits of rank E at most; a mixture of several has not.

    Attributes:
        prior: P (K, D).
        latent: all L_k one after the other (K·E, D), and their biases.
        decoder: W (V, E) and b (V,).
        dropout: rate for the latents, one mask per sequence and channel.
        training: whether they are dropped.

    Source: Yang et al., Breaking the Softmax Bottleneck, arXiv 1711.03953, section 2.4.
    """

    prior: nn.Linear
    latent: nn.Linear
    decoder: nn.Linear
    dropout: float = 0.0
    training: bool = False

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of all its maps."""
        return chain.from_iterable(part.parameters() for part in (self.prior, self.latent, self.decoder))

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """−log p(targets | hidden): (L, B, D), (L, B) -> (L, B); without dropout any leading shape."""
        logits = self._logits(hidden)  # (…, K, V)
        every = targets.unsqueeze(-1).expand(logits.shape[:-1])
        of_target = -F.cross_entropy(logits.flatten(0, -2), every.flatten(), reduction="none").view(every.shape)
        return -torch.logsumexp(self._log_prior(hidden) + of_target, dim=-1)

    def log_prob(self, hidden: Tensor) -> Tensor:
        """log p of every word: (…, D) -> (…, V)."""
        of_word = F.log_softmax(self._logits(hidden), dim=-1)
        return torch.logsumexp(self._log_prior(hidden).unsqueeze(-1) + of_word, dim=-2)

    def _log_prior(self, hidden: Tensor) -> Tensor:
        return F.log_softmax(self.prior(hidden), dim=-1)  # (…, K)

    def _logits(self, hidden: Tensor) -> Tensor:
        latent = torch.tanh(self.latent(hidden))
        # one mask for all positions, which come first
        mask = variational_mask(latent.shape[1:], self.dropout, latent, training=self.training)
        return self.decoder(masked(latent, mask).unflatten(-1, (-1, self.decoder.in_features)))
