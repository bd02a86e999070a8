"""Where a run's examples come from: a fixed set that is drawn from, or new ones at every update."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from synthetic.settings import Settings
from synthetic.task import Examples, Task

TEST_SEED = 2**62  # that of no run: all are tested on the same sequences


def batches(task: Task, settings: Settings) -> Iterator[Examples]:
    """Batches for updates, without an end; the same for the same seed."""
    size, length = settings.batch_size, settings.seq_len
    first = settings.seed << 30  # updates of one seed have other numbers than those of another
    if settings.n_train == 0:
        while True:
            first += 1
            yield task.examples(size, length, first)
    whole = task.examples(settings.n_train, length, first)
    generator = torch.Generator().manual_seed(first)
    while True:
        yield columns(whole, torch.randint(settings.n_train, (size,), generator=generator))


def test_examples(task: Task, settings: Settings, length: int) -> Examples:
    """The test set at this length."""
    return task.examples(settings.n_test, length, TEST_SEED)


def columns(examples: Examples, chosen: torch.Tensor | slice) -> Examples:
    """Some of the sequences."""
    return _each(examples, lambda x: x[:, chosen])


def to(examples: Examples, device: torch.device) -> Examples:
    """The same on a device."""
    return _each(examples, lambda x: x.to(device))


def _each(examples: Examples, change: Callable[[torch.Tensor], torch.Tensor]) -> Examples:
    return Examples(change(examples.tokens), change(examples.targets), change(examples.counted))
