"""The examples of all tasks: who has the same ones, and what is drawn when."""

from itertools import islice

import pytest
import torch

from synthetic.examples import FOR_TESTS, FOR_TRAINING, batches, examples_to_test, generator_of
from synthetic.settings import completed
from synthetic.tasks import TASKS


def drawn(task: str, seed: int, **given: object) -> list[torch.Tensor]:
    """The tokens of the first three batches of a run."""
    settings = completed({"task": task, "seq_len": 12, "batch_size": 8, "p": 1, "n_train": 0, "seed": seed} | given)
    return [batch.tokens for batch in islice(batches(_task(settings), settings, generator_of(FOR_TRAINING, seed)), 3)]


def _task(settings: object) -> object:
    return TASKS[settings.task](settings)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n_train", [0, 20])
def test_a_seed_makes_the_examples_and_leaves_the_global_generator_alone(task, n_train):
    state = torch.random.get_rng_state()
    one, again = (torch.stack(drawn(task, 1, n_train=n_train)) for _ in range(2))
    assert one.equal(again)
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize("task", TASKS)
def test_no_two_seeds_nor_two_batches_have_the_same_examples(task):
    """4 and 8 have the same lower bits as 0 after a shift, 2**31 - 1 the largest that there is."""
    all_drawn = [tokens for seed in (0, 1, 4, 5, 8, 9, 2**31 - 1) for tokens in drawn(task, seed)]
    assert len({str(tokens.tolist()) for tokens in all_drawn}) == 7 * 3


@pytest.mark.parametrize("task", TASKS)
def test_all_seeds_are_tested_on_the_same_examples_which_are_those_of_no_training(task):
    settings = [completed({"task": task, "seq_len": 12, "p": 1, "n_test": 8, "seed": seed}) for seed in (0, 3)]
    one, other = (examples_to_test(_task(each), each, 12).tokens for each in settings)
    assert one.equal(other)
    assert not one.equal(drawn(task, 0)[0])
    assert not generator_of(FOR_TESTS).get_state().equal(generator_of(FOR_TRAINING).get_state())


def test_a_fixed_set_is_drawn_from_again_and_again():
    tokens = torch.cat(drawn("copy_memory", 1, n_train=4), dim=1)
    assert len(tokens.unique(dim=1).t()) <= 4
    assert len(torch.cat(drawn("copy_memory", 1), dim=1).unique(dim=1).t()) == 24
