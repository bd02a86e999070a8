"""The word problem of S5, against composition one by one."""

import pytest
import torch

from synthetic.state_tracking import GENERATORS, GROUP, LETTERS, StateTracking


@pytest.mark.parametrize("letters", LETTERS)
def test_targets_are_the_running_products(letters):
    examples = StateTracking(letters).examples(4, 50, seed=3)
    assert examples.tokens.shape == examples.targets.shape == examples.counted.shape == (51, 4)
    assert (examples.tokens[0] == len(LETTERS[letters])).all(), "the mark of the beginning"
    assert not examples.counted[0].any()
    assert examples.counted[1:].all()
    for column in range(4):
        state = tuple(range(5))
        for token, target in zip(examples.tokens[1:, column], examples.targets[1:, column], strict=True):
            letter = LETTERS[letters][token]
            state = tuple(state[letter[i]] for i in range(5))
            assert GROUP[target] == state


def test_the_generators_reach_the_whole_group():
    reached = {tuple(range(5))}
    while more := {tuple(g[i] for i in x) for g in reached for x in GENERATORS} - reached:
        reached |= more
    assert reached == set(GROUP)
    assert len(GROUP) == 120


@pytest.mark.parametrize(("letters", "n_letter"), [("generators", 2), ("elements", 120)])
def test_letters_and_classes_share_a_vocabulary(letters, n_letter):
    task = StateTracking(letters)
    examples = task.examples(64, 256, seed=0)
    assert (task.n_token, task.n_class, task.length(32)) == (max(120, n_letter + 1), 120, 33)
    assert examples.tokens.unique().tolist() == list(range(n_letter + 1))
    late = torch.bincount(examples.targets[128:].flatten(), minlength=120).double()
    assert late.min() > 0.3 * late.mean(), "no class is rare"


def test_a_seed_makes_the_examples():
    state = torch.random.get_rng_state()
    one, again, other = (StateTracking().examples(3, 20, seed).tokens for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state), "the generator is its own"


def test_other_letters_are_told():
    with pytest.raises(ValueError, match="`letters` is 'all': choose one of generators, elements"):
        StateTracking("all")
