"""The word problem of S5, against composition one by one."""

import pytest
import torch

from synthetic.state_tracking import GENERATORS, GROUP, LETTERS, StateTracking


@pytest.mark.parametrize("letters", LETTERS)
def test_targets_are_the_running_products(letters):
    examples = StateTracking(letters).examples(4, 50, seed=3)
    for column in range(4):
        state = tuple(range(5))
        for token, target in zip(examples.tokens[:, column], examples.targets[:, column], strict=True):
            letter = LETTERS[letters][token]
            state = tuple(state[letter[i]] for i in range(5))
            assert GROUP[target] == state
    assert examples.counted.all()


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
    assert examples.tokens.shape == (256, 64)
    assert (task.n_token, task.n_class, task.length(32)) == (120, 120, 32)
    assert examples.tokens.unique().tolist() == list(range(n_letter))
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
