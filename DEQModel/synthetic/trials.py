"""The tests of a trained model: at every length, and at every threshold of its solves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from config.depth import equilibrium
from models.protocol import LanguageModel
from modules.depth import Applications, Depth
from synthetic.examples import examples_to_test
from synthetic.models import build, check_reach
from synthetic.scoring import Trial, tried
from synthetic.settings import DEQ_MODELS, Settings
from synthetic.tasks import TASKS


def trials(model: LanguageModel, settings: Settings) -> Iterator[Trial]:
    """One by one, on the task of these settings; the first of them as the model was trained."""
    task = TASKS[settings.task](settings)
    model.eval()
    for length in settings.lengths_to_test:
        examples = examples_to_test(task, settings, length)
        for threshold, depth in depths(settings):
            yield tried(
                model,
                examples,
                depth,
                p=settings.p,
                length=length,
                threshold=threshold,
                batch_size=settings.batch_size,
            )


def check_lengths(settings: Settings) -> None:
    """Refuse lengths, of training or tests, at which nothing can be learned or seen.

    Raises:
        ValueError: no position of a test set counts, or a model cannot see all of a sequence; with settings in
            backticks.
    """
    task = TASKS[settings.task](settings)
    with torch.device("meta"):
        model = build(settings, task.n_token)
    for length in {settings.seq_len, *settings.lengths_to_test}:
        check_reach(model, task.length(length))
        if not examples_to_test(task, settings, length).counted.any():
            raise ValueError(
                f"`p` {settings.p}: so many hops lead nowhere in {settings.n_test} sequences of length {length}: lower "
                "`p`, or raise `seq_len` and `test_lengths`"
            )


def depths(settings: Settings) -> list[tuple[int | None, Depth]]:
    """Threshold and depth of each test; an explicit model has one, and no threshold."""
    n_applications = settings.n_applications
    if settings.model not in DEQ_MODELS:
        return [(None, Applications(1))]
    if n_applications is not None:
        return [(n, Applications(n)) for n in settings.test_thresholds or (n_applications,)]
    settings = replace(settings, solver=settings.test_solver or settings.solver)
    thresholds = settings.test_thresholds or (settings.f_thres,)
    return [(threshold, equilibrium(replace(settings, f_thres=threshold))) for threshold in thresholds]
