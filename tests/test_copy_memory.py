"""Copy memory: its examples against loops, and what a guess scores."""

import math

import pytest
import torch

from synthetic.copy_memory import CopyMemory, guessing
from synthetic.examples import FOR_TESTS, generator_of


@pytest.mark.parametrize(("n", "seq_len"), [(1, 1), (7, 5), (3, 40)])
def test_every_token_and_target_is_that_of_the_definition(n, seq_len):
    examples = CopyMemory().examples(n, seq_len, generator_of(FOR_TESTS, 3))
    assert examples.tokens.shape == examples.targets.shape == examples.counted.shape == (seq_len + 20, n)
    assert examples.tokens.dtype == examples.targets.dtype == torch.int64
    assert examples.counted.dtype == torch.bool
    for column in range(n):
        symbols = [int(examples.tokens[position, column]) for position in range(10)]
        assert all(1 <= symbol <= 8 for symbol in symbols)
        for position in range(seq_len + 20):
            token, target = int(examples.tokens[position, column]), int(examples.targets[position, column])
            assert examples.counted[position, column]
            if position >= 10:
                assert token == (9 if position == seq_len + 10 else 0)
            assert target == (0 if position < seq_len + 10 else symbols[position - seq_len - 10])


def test_all_symbols_come():
    tokens = CopyMemory().examples(200, 4, generator_of(FOR_TESTS)).tokens
    assert set(tokens[:10].flatten().tolist()) == set(range(1, 9))


def test_a_guess_scores_the_published_number():
    assert guessing(400) == pytest.approx(0.0495, abs=5e-5)
    assert guessing(80) == 10 * math.log(8) / 100
