"""How the next word is drawn from the probabilities of all words.

Shapes: B rows, V words.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """A word is drawn from p(w)^(1/temperature), of the likeliest words alone where that is asked for.

    Args:
        temperature: 0 takes the likeliest word, the first of several.
        top_k: how many of the likeliest words may be drawn; 0 for all.
        top_p: of these, the fewest likeliest whose share of their probability is at least this; 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def draw(self, log_p: Tensor, uniform: Tensor) -> Tensor:
        """The next word of each row, (B,).

        Args:
            log_p: log-probability of every word (B, V).
            uniform: a random number in [0, 1) for each row (B,), float64.
        """
        if self.temperature == 0:
            return log_p.argmax(dim=1)
        p, words = self._candidates(log_p)
        cumulative = p.cumsum(dim=1)
        # the first place whose sum is above: never one of probability 0
        place = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        return (place if words is None else words.gather(1, place)).squeeze(1)

    def _candidates(self, log_p: Tensor) -> tuple[Tensor, Tensor | None]:
        """Up to a factor, the probabilities of the words that may be drawn (B, C), and the words; None for all."""
        scaled = (log_p - log_p.amax(dim=1, keepdim=True)).double() / self.temperature
        if self.top_p == 1 and not 0 < self.top_k < log_p.shape[1]:
            return scaled.softmax(dim=1), None
        scaled, words = (x[:, : self.top_k or None] for x in scaled.sort(dim=1, descending=True, stable=True))
        p = scaled.softmax(dim=1)
        share_before = p.cumsum(dim=1) - p
        return p.where(share_before < self.top_p, 0.0), words
