"""Runs that diverge."""

import math
import os
import signal

import torch

from faults.inside import AtSteps, Ruin, together
from faults.processes import Ended
from faults.trial import MAX_STEP, SOUND, LostError, Record, Trial, Verdict
from training.checkpoint import CHECKPOINT_FILE

STREAK = "updates in a row had a loss or a gradient that is not finite"
NO_WAY_BACK = "no checkpoint before it is left"
LATEST = MAX_STEP - 4  # step after which weights may be ruined, so that the run gives up before its end
SETTING = "checkpoint settings max_bad_steps"
SMALL = ("--lr", "0.0001")


def ruined(trial: Trial) -> Verdict:
    """Weights are spoilt after an update, and the process may be killed before it has noticed often enough.

    What is kept was not spoilt: the run ends as the undisturbed one.
    """
    step, n = trial.rng.randint(1, LATEST), trial.rng.choice((2, 3))
    ruin = Ruin(step, trial.rng.choice((1e30, math.inf)))
    kill = AtSteps({step + 2: lambda: os.kill(os.getpid(), signal.SIGKILL)})
    inside = together(ruin, kill) if trial.number % 2 else ruin
    ended = trial.start(inside, further=["--max_bad_steps", str(n)]).wait()
    trial.broken += 1
    if not ended.killed:
        _gives_up(trial, ended)
    ended = trial.go_on().wait()
    if STREAK in ended.err:  # the newest checkpoint had been spoilt, and gives way
        _gives_up(trial, ended)
        if NO_WAY_BACK in ended.err:
            trial.started_anew, trial.resumed = True, 0
            ended = trial.start().wait()
        else:
            ended = trial.go_on().wait()
    return trial.judge(ended, but=[SETTING])


def rate_raised(trial: Trial) -> Verdict:
    """A run goes on with a learning rate that is much too large, and then with a small one."""
    trial.stop_at(trial.rng.randint(1, LATEST))
    raised = ["--lr", "1e30", "--scheduler", "constant", "--max_bad_steps", "2"]
    for _ in range(trial.rng.randint(1, 2)):
        _gives_up(trial, trial.resume(further=raised).wait())
        trial.broken += 1
    return _sound(trial, trial.resume(further=SMALL).wait())


def _gives_up(trial: Trial, ended: Ended) -> None:
    trial.refused(ended)
    if STREAK not in ended.err or "--lr" not in ended.err:
        raise LostError(f"another end than that of a run which diverges: {ended}")


def _sound(trial: Trial, ended: Ended) -> Verdict:
    """See that a run came to its end with finite weights and losses."""
    if ended.status != 0 or ended.complaints:
        raise LostError(f"it did not go on: {ended}")
    record = Record.of(trial.folder)
    losses = [record.results[split]["loss"] for split in ("valid", "test")]
    if None in losses or not all(weight.isfinite().all() for weight in record.weights.values()):
        raise LostError(f"losses {losses}, or weights that are not finite")
    last = torch.load(trial.folder / CHECKPOINT_FILE, weights_only=True)
    if (last["step"], last["bad_steps"], last["totals"]["skipped_updates"]) != (MAX_STEP, 0, 0):
        raise LostError("its last checkpoint is of another step, or updates were skipped")
    return Verdict(SOUND)
