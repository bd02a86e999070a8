"""Where a run's examples come from: a fixed set that is drawn from, or new ones at every update."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from synthetic.settings import Settings
from synthetic.task import Examples, Task

FOR_TRAINING, FOR_TESTS = 0, 1


def generator_of(purpose: int, seed: int = 0) -> torch.Generator:
    """The source of a run's examples; no two purposes and seeds have the same.

    PyTorch's generator takes up the lower 32 bits of its seed alone, so that these are made of all that is given.
    """
    (mixed,) = np.random.SeedSequence([purpose, seed]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))


def batches(task: Task, settings: Settings, generator: torch.Generator) -> Iterator[Examples]:
    """Batches for updates, without an end."""
    size, length = settings.batch_size, settings.seq_len
    if settings.n_train == 0:
        while True:
            yield task.examples(size, length, generator)
    whole = task.examples(settings.n_train, length, generator)
    while True:
        yield columns(whole, torch.randint(settings.n_train, (size,), generator=generator))


def examples_to_test(task: Task, settings: Settings, length: int) -> Examples:
    """The test set at this length, the same one for all runs."""
    return task.examples(settings.n_test, length, generator_of(FOR_TESTS))


def columns(examples: Examples, chosen: torch.Tensor | slice) -> Examples:
    """Some of the sequences."""
    return _each(examples, lambda x: x[:, chosen])


def to(examples: Examples, device: torch.device) -> Examples:
    """The same on a device."""
    return _each(examples, lambda x: x.to(device))


def _each(examples: Examples, change: Callable[[torch.Tensor], torch.Tensor]) -> Examples:
    return Examples(change(examples.tokens), change(examples.targets), change(examples.counted))
