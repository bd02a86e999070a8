"""Runs that are made to diverge, to skip updates, or to validate without a result."""

import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
import torch

from evaluation.report import EvaluationReport
from training import trainer as training
from training.trainer import Trainer

Action = Callable[[Trainer], object]


@contextmanager
def at_updates(
    *, before: Mapping[int, Action] | None = None, after: Mapping[int, Action] | None = None
) -> Iterator[None]:
    """Call these with the trainer, before and after the updates that end with some steps."""
    update = Trainer.update

    def disturbed(trainer: Trainer, *given):
        (before or {}).get(trainer.progress.step + 1, lambda trainer: None)(trainer)
        made = update(trainer, *given)
        (after or {}).get(trainer.progress.step, lambda trainer: None)(trainer)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", disturbed)
        yield


def ruined(step: int, factor: float = 1e30, **more: Mapping[int, Action]) -> AbstractContextManager[None]:
    """The update that ends with this step leaves weights that give no finite loss any more."""

    @torch.no_grad()
    def ruin(trainer: Trainer) -> None:
        for parameter in trainer.model.parameters():
            parameter.mul_(factor)

    return at_updates(after={step: ruin}, **more)


def interrupting(step: int, number: int = signal.SIGTERM) -> dict[int, Action]:
    """A signal comes in the update that ends with this step."""
    return {step: lambda trainer: os.kill(os.getpid(), number)}


def skipped(*steps: int) -> AbstractContextManager[None]:
    """The gradients of these updates are not finite."""

    def spoil(trainer: Trainer) -> None:
        clipping = trainer.updater.clipping

        def spoilt() -> torch.Tensor:
            trainer.updater.clipping = clipping
            return clipping() * math.nan

        trainer.updater.clipping = spoilt

    return at_updates(before=dict.fromkeys(steps, spoil))


@contextmanager
def validating(*losses: float) -> Iterator[None]:
    """The validations come to these losses, one after the other."""
    evaluate, left = training.evaluate, list(losses)

    def another(*given, **named) -> EvaluationReport:
        return replace(evaluate(*given, **named), loss=left.pop(0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "evaluate", another)
        yield
