"""p-hop induction, against its definition."""

import pytest
import torch

from synthetic.examples import FOR_TESTS, generator_of
from synthetic.p_hop import N_SYMBOL, PHop


def by_definition(x: list[int], p: int) -> list[int | None]:
    """The target at every position, None where it does not count."""
    targets = []
    for place in range(len(x)):
        for _ in range(p):
            earlier = [j for j in range(place) if x[j] == x[place]] if place is not None else []
            place = earlier[-1] + 1 if earlier else None
        targets.append(None if place is None else x[place])
    return targets


@pytest.mark.parametrize("p", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("seq_len", [1, 20, 64])
def test_targets_are_those_of_the_definition(p, seq_len):
    examples = PHop(p).examples(5, seq_len, generator_of(FOR_TESTS, p))
    for column in range(5):
        expected = by_definition(examples.tokens[:, column].tolist(), p)
        counted = examples.counted[:, column].tolist()
        assert counted == [target is not None for target in expected]
        found = examples.targets[:, column].tolist()
        assert all(mine == target for mine, target in zip(found, expected, strict=True) if target is not None)


def test_a_worked_example():
    #    0  1  2  3  4  5      from 5 (b) to 2, after the b at 1; from 2 (c): no c before
    x = [0, 1, 2, 0, 2, 1]
    assert by_definition(x, 1) == [None, None, None, 1, 0, 2]
    assert by_definition(x, 2) == [None, None, None, None, 1, None]


def test_symbols_are_uniform_and_neighbours_differ():
    examples = PHop(4).examples(64, 256, generator_of(FOR_TESTS))
    assert examples.tokens.shape == examples.targets.shape == examples.counted.shape == (256, 64)
    assert (examples.tokens[1:] != examples.tokens[:-1]).all()
    assert torch.bincount(examples.tokens.flatten()).div(64 * 64).sub(1).abs().max() < 0.05
    assert (PHop().n_token, PHop().length(32)) == (N_SYMBOL, 32)


def test_most_positions_count_at_the_length_of_the_literature():
    shares = [
        float(PHop(p).examples(64, 256, generator_of(FOR_TESTS)).counted.float().mean()) for p in (1, 2, 4, 8, 16)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.95
    assert shares[-1] > 0.6


def test_hops_out_of_range_are_told():
    with pytest.raises(ValueError, match="`p` is 0"):
        PHop(0)
