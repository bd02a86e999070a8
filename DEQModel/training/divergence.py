"""Runs that have diverged, and how they say so."""

from models.protocol import LanguageModel
from system.errors import UserError
from training.progress import Progress
from training.telemetry import TrainingTotals

REMEDY = "lower --lr, lengthen --warmup_step or raise --f_thres and --b_thres"


def is_sound(progress: Progress, model: LanguageModel) -> bool:
    """Whether the weights may be kept: the last update was made, and has left finite ones."""
    finite = (parameter.isfinite().all() for parameter in model.parameters())
    return progress.bad_steps == 0 and all(finite)


def has_only_skipped(totals: TrainingTotals) -> bool:
    """Whether a run has made no update at all, and not for want of trying."""
    return 0 < totals.updates == totals.skipped_updates


def too_many_skipped(progress: Progress, way_back: str) -> UserError:
    """What ends a run after --max_bad_steps skipped updates; `way_back` tells where it can go on."""
    return UserError(
        f"step {progress.step}: {progress.bad_steps} updates in a row had a loss or a gradient that is not finite and "
        f"were skipped ({way_back}): {REMEDY}"
    )


def no_model(progress: Progress, totals: TrainingTotals, *, shallow: bool, way_back: str) -> UserError:
    """What ends a run that has no model to test, after its last stage: the shallow or the equilibrium one."""
    if has_only_skipped(totals):
        why = "all updates had a loss or a gradient that is not finite and were skipped"
    else:
        why = f"no validation of the {'shallow' if shallow else 'equilibrium'} stage came to a finite loss"
    return UserError(f"step {progress.step}: {why}, so that there is no model to test ({way_back}): {REMEDY}")
