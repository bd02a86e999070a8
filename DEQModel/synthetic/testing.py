"""The tests of a trained model: at every length, and at every threshold of its solves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from config.depth import equilibrium
from models.protocol import LanguageModel
from modules.depth import Applications, Depth
from synthetic.examples import test_examples
from synthetic.models import is_equilibrium
from synthetic.scoring import TestFigures, tested
from synthetic.settings import Settings
from synthetic.tasks import TASKS


def tests(model: LanguageModel, settings: Settings) -> Iterator[TestFigures]:
    """One by one, on the task of these settings; the first of them as the model was trained."""
    task = TASKS[settings.task](settings)
    model.eval()
    for length in settings.test_lengths or (settings.seq_len,):
        examples = test_examples(task, settings, length)
        for threshold, depth in test_depths(model, settings):
            yield tested(
                model,
                examples,
                depth,
                p=settings.p,
                length=length,
                threshold=threshold,
                batch_size=settings.batch_size,
            )


def test_depths(model: LanguageModel, settings: Settings) -> list[tuple[int | None, Depth]]:
    """Threshold and depth of each test; a model that is no equilibrium has one, and no threshold."""
    n_applications = settings.n_applications
    if not is_equilibrium(model):
        return [(None, Applications(1))]
    if n_applications is not None:
        return [(n, Applications(n)) for n in settings.test_thresholds or (n_applications,)]
    settings = replace(settings, solver=settings.test_solver or settings.solver)
    thresholds = settings.test_thresholds or (settings.f_thres,)
    return [(threshold, equilibrium(replace(settings, f_thres=threshold))) for threshold in thresholds]
