"""Draws against closed forms: over a fine grid of random numbers each word comes as often as it is likely."""

import pytest
import torch

from generation.sampling import Sampling

P = [0.1, 0.4, 0.05, 0.25, 0.2]
GRID = 4000

TABLE = [
    # settings, what is drawn how often
    ({}, P),
    ({"temperature": 0.5}, [0.01, 0.16, 0.0025, 0.0625, 0.04]),
    ({"temperature": 2}, [0.1**0.5, 0.4**0.5, 0.05**0.5, 0.5, 0.2**0.5]),
    ({"temperature": 0}, [0, 1, 0, 0, 0]),
    ({"temperature": 0, "top_k": 3, "top_p": 0.9}, [0, 1, 0, 0, 0]),
    ({"temperature": 1e-300}, [0, 1, 0, 0, 0]),
    ({"temperature": 1e300}, [1, 1, 1, 1, 1]),
    ({"top_k": 1}, [0, 1, 0, 0, 0]),
    ({"top_k": 3}, [0, 8, 0, 5, 4]),
    ({"top_k": 9}, P),
    ({"top_p": 0.3}, [0, 1, 0, 0, 0]),
    ({"top_p": 0.6}, [0, 8, 0, 5, 0]),
    ({"top_p": 0.7}, [0, 8, 0, 5, 4]),
    ({"top_p": 0.99999}, P),
    ({"top_k": 3, "top_p": 0.7}, [0, 8, 0, 5, 0]),  # 0.4 and 0.25 of 0.85 are 0.76
    ({"top_k": 4, "top_p": 0.7}, [0, 8, 0, 5, 4]),  # 0.65 of 0.95 are 0.68
    ({"temperature": 0.5, "top_p": 0.6}, [0, 0.16, 0, 0.0625, 0]),  # 0.16 of 0.275 are 0.58
    ({"temperature": 0.5, "top_k": 2}, [0, 0.16, 0, 0.0625, 0]),
]


def draws(sampling: Sampling, p: list[float]) -> torch.Tensor:
    log_p = torch.tensor(p).log().expand(GRID, -1)
    return sampling.draw(log_p, (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID)


@pytest.mark.parametrize(("settings", "weights"), TABLE, ids=[str(settings) for settings, _ in TABLE])
def test_words_come_as_often_as_they_are_likely(settings, weights):
    weights = torch.tensor(weights, dtype=torch.float64)
    counts = torch.bincount(draws(Sampling(**settings), P), minlength=len(P))
    torch.testing.assert_close(counts / GRID, weights / weights.sum(), rtol=0, atol=1.5 / GRID, check_dtype=False)


def test_frequencies_of_random_draws():
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(Sampling().draw(torch.tensor(P).log().expand(len(uniform), -1), uniform))
    expected = torch.tensor(P) * len(uniform)
    assert ((counts - expected) ** 2 / expected).sum() < 13.3  # χ² of 4 degrees of freedom: 1 % lie beyond


def test_of_words_that_are_alike_the_first_are_kept():
    for settings in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.2}):
        assert draws(Sampling(**settings), [0.1, 0.3, 0.3, 0.3]).unique().tolist() == [1]
    assert draws(Sampling(top_k=2), [0.1, 0.3, 0.3, 0.3]).unique().tolist() == [1, 2]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_impossible_words_are_never_drawn(uniform):
    log_p = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert Sampling().draw(log_p, torch.tensor([uniform], dtype=torch.float64)).tolist() == [1]


def test_rows_are_drawn_for_themselves():
    log_p = torch.tensor([P, P[::-1], P]).log()
    uniform = torch.tensor([0.05, 0.05, 0.999], dtype=torch.float64)
    assert Sampling().draw(log_p, uniform).tolist() == [0, 0, 4]
    assert Sampling(top_k=2).draw(log_p, uniform).tolist() == [1, 3, 3]


def test_limits_that_keep_every_word_change_no_draw():
    log_p = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    uniform = torch.linspace(0, 0.99, 6, dtype=torch.float64)
    for top_k in (9, 10**24):
        assert Sampling(top_k=top_k).draw(log_p, uniform).equal(Sampling().draw(log_p, uniform))
