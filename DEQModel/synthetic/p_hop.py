"""p-hop induction: follow the previous occurrence of the current symbol, p times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synthetic.task import Examples

N_SYMBOL = 4  # of the alphabet


@dataclass(frozen=True)
class PHop:
    """p-hop induction at every position of a sequence.

    A hop from position i leads to the position after the last earlier occurrence of the symbol at i:

        find(i) = max({0} ∪ {j : 0 < j <= i and x[j - 1] = x[i]})

    and the target at i is x[find(find(… i))], with p hops. Where a hop has no earlier occurrence to follow, find is 0
    from there on, and the position does not count.

    Symbols are uniform, but that no two neighbours are equal: a hop from the second of two would lead to where it
    began, and so would all that follow.

    Args:
        p: number of hops, 1 or more.

    Raises:
        ValueError: p out of range.

    Source: the task hop_k of Sanford, Hsu and Telgarsky, arXiv 2402.09268, section 4, with a target at every position
        and no equal neighbours, as in their experiments; Saunshi et al., arXiv 2502.17416, have the same hops over 4
        symbols and length 256, with a target at the last position.
    """

    p: int = 4

    def __post_init__(self) -> None:
        if self.p < 1:
            raise ValueError(f"`p` is {self.p}: pass 1 or more")

    @property
    def n_token(self) -> int:
        """V, that of the symbols."""
        return N_SYMBOL

    def length(self, seq_len: int) -> int:
        """L, `seq_len` itself."""
        return seq_len

    def examples(self, n: int, seq_len: int, generator: torch.Generator) -> Examples:
        """n new sequences of this length."""
        first = torch.randint(N_SYMBOL, (1, n), generator=generator)
        steps = torch.randint(1, N_SYMBOL, (seq_len - 1, n), generator=generator)
        tokens = torch.cat([first, steps]).cumsum(0) % N_SYMBOL
        places = reached(tokens, self.p)
        return Examples(tokens, tokens.gather(0, places), places > 0)


def reached(tokens: Tensor, p: int) -> Tensor:
    """The positions (L, B) that p hops lead to; 0 where one of them has nothing to follow."""
    positions = torch.arange(len(tokens))[:, None]
    find = torch.zeros_like(tokens)
    for symbol in range(N_SYMBOL):
        here = tokens == symbol
        after = torch.where(here, positions + 1, 0).cummax(0).values  # after the last occurrence so far
        before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])  # after the last one before
        find = torch.where(here, before, find)
    places = find
    for _ in range(p - 1):
        places = find.gather(0, places)  # find[0] is 0: what has nothing to follow stays there
    return places
