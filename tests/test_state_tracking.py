"""The word problem of S5, against composition one by one."""

import torch

from synthetic.examples import FOR_TESTS, generator_of
from synthetic.state_tracking import BEGINNING, GENERATORS, GROUP, StateTracking


def test_targets_are_the_running_products():
    examples = StateTracking().examples(4, 50, generator_of(FOR_TESTS, 3))
    assert examples.tokens.shape == examples.targets.shape == examples.counted.shape == (51, 4)
    assert (examples.tokens[0] == BEGINNING).all(), "the mark of the beginning"
    assert not examples.counted[0].any()
    assert examples.counted[1:].all()
    for column in range(4):
        state = tuple(range(5))
        for token, target in zip(examples.tokens[1:, column], examples.targets[1:, column], strict=True):
            letter = GENERATORS[token]
            state = tuple(state[letter[i]] for i in range(5))
            assert GROUP[target] == state


def test_the_generators_reach_the_whole_group():
    reached = {tuple(range(5))}
    while more := {tuple(g[i] for i in x) for g in reached for x in GENERATORS} - reached:
        reached |= more
    assert reached == set(GROUP)
    assert len(GROUP) == 120


def test_letters_and_classes_share_a_vocabulary():
    task = StateTracking()
    examples = task.examples(64, 256, generator_of(FOR_TESTS))
    assert (task.n_token, task.length(32)) == (120, 33)
    assert examples.tokens.unique().tolist() == [0, 1, BEGINNING]
    late = torch.bincount(examples.targets[128:].flatten(), minlength=120).double()
    assert late.min() > 0.3 * late.mean(), "no class is rare"
