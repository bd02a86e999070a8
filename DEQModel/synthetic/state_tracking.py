"""State tracking: the running product of a word over the symmetric group of five things."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from synthetic.task import Examples

GROUP = tuple(permutations(range(5)))  # S5 in lexicographic order: a permutation's class is its place here
GENERATORS = ((1, 0, 2, 3, 4), (1, 2, 3, 4, 0))  # a transposition and a 5-cycle
BEGINNING = len(GENERATORS)  # the token that marks it; those below are the letters


@dataclass(frozen=True)
class StateTracking:
    """The product x[1] ∘ x[2] ∘ … ∘ x[t] of the letters so far, at every position t: one of 120 classes.

    (g ∘ h)(i) = g(h(i)). Letters are independent and uniform. A mark of the beginning, x[0], precedes them and does
    not count: without it attention over relative positions, an average, could not tell a letter from its repetition.
    S5 is not solvable, so that its word problem is complete for NC1: no transformer of fixed depth is known to solve it
    at every length.

    Source: the word problem of S5, a tag at every position, as in Merrill, Petty and Sabharwal, The Illusion of State,
        arXiv 2404.08819, whose letters are all elements; Liu et al., arXiv 2210.10749, have generators as letters.
    """

    @property
    def n_token(self) -> int:
        """V: letters, the mark after them, and classes share one vocabulary."""
        return len(GROUP)

    def length(self, seq_len: int) -> int:
        """L, the letters and the mark."""
        return seq_len + 1

    def examples(self, n: int, seq_len: int, generator: torch.Generator) -> Examples:
        """n new words of `seq_len` letters."""
        products = _products()
        word = torch.randint(BEGINNING, (seq_len, n), generator=generator)
        states = [torch.zeros(n, dtype=torch.int64)]  # the class 0 is the identity
        for letter in word:
            states.append(products[states[-1], letter])
        tokens = torch.cat([torch.full((1, n), BEGINNING), word])
        counted = torch.ones_like(tokens, dtype=torch.bool)
        counted[0] = False
        return Examples(tokens, torch.stack(states), counted)


@cache
def _products() -> Tensor:
    """The class of g ∘ x, (120, number of letters), for the element g and the letter x."""
    classes = {element: number for number, element in enumerate(GROUP)}
    return torch.tensor([[classes[tuple(g[i] for i in x)] for x in GENERATORS] for g in GROUP])
