"""Runs that have diverged, and how they say so."""

from models.protocol import LanguageModel
from modules.depth import Applications, Depth
from modules.deq import DEQModule
from system.errors import UserError
from training.progress import Progress
from training.telemetry import TrainingTotals

REMEDIES = {  # by whether there are solves
    True: "lower --lr, lengthen --warmup_step or raise --f_thres and --b_thres",
    False: "lower --lr or lengthen --warmup_step",
}
STAGES = {Applications: " of the shallow stage", DEQModule: " of the equilibrium stage"}


def is_sound(progress: Progress, model: LanguageModel) -> bool:
    """Whether the weights may be kept: the last update was made, and has left finite ones."""
    finite = (parameter.isfinite().all() for parameter in model.parameters())
    return progress.bad_steps == 0 and all(finite)


def has_only_skipped(totals: TrainingTotals) -> bool:
    """Whether a run has made no update at all, and not for want of trying."""
    return 0 < totals.updates == totals.skipped_updates


def too_many_skipped(progress: Progress, depth: Depth, way_back: str) -> UserError:
    """What ends a run after --max_bad_steps skipped updates of a depth; `way_back` tells where it can go on."""
    return UserError(
        f"step {progress.step}: {progress.bad_steps} updates in a row had a loss or a gradient that is not finite and "
        f"were skipped ({way_back}): {REMEDIES[isinstance(depth, DEQModule)]}"
    )


def no_model(progress: Progress, totals: TrainingTotals, depth: Depth, way_back: str) -> UserError:
    """What ends a run that has no model to test, after a stage of this depth."""
    if has_only_skipped(totals):
        why = "all updates had a loss or a gradient that is not finite and were skipped"
    else:
        stage = next((name for kind, name in STAGES.items() if isinstance(depth, kind)), "")
        why = f"no validation{stage} came to a finite loss"
    remedy = REMEDIES[isinstance(depth, DEQModule)]
    return UserError(f"step {progress.step}: {why}, so that there is no model to test ({way_back}): {remedy}")
