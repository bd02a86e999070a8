"""Processes that are killed or signalled."""

import signal
from collections.abc import Callable, Sequence
from itertools import pairwise

from faults.inside import OFF, ON, UPDATE, marks, noted
from faults.processes import Ended
from faults.trial import MAX_STEP, LostError, Trial, Verdict

MOST = 5  # times that a run is broken
OF_A_RESUMED_RUN = ("resuming", "opening the run's folder")
STOPS = {
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGINT: "interrupted",
    signal.SIGHUP: "stopped by SIGHUP",
}


def killed_at_random(trial: Trial) -> Verdict:
    """SIGKILL at any moment, until the run gets through or it is enough."""
    for _ in range(trial.rng.randint(1, MOST)):
        process = trial.go_on()
        if process.lives_for(trial.rng.uniform(0, trial.reference.seconds)):
            process.signal(signal.SIGKILL)
            trial.broken += 1
        ended = process.wait()
        if not ended.killed:
            return trial.judge(ended)
    return trial.finish()


def killed_in(place: str) -> Callable[[Trial], Verdict]:
    """SIGKILL at any call inside a place, or at any byte of a file, and again in the calls that follow."""

    def fault(trial: Trial) -> Verdict:
        if place in OF_A_RESUMED_RUN:
            trial.stop_at(trial.rng.randrange(1, MAX_STEP))
        for _ in range(trial.rng.randint(1, MOST)):
            ended = trial.go_on(trial.reference.striking(place, trial.rng)).wait()
            if not ended.killed:
                return trial.judge(ended)
            trial.broken += 1
        return trial.finish()

    return fault


def killed_while_encoding(trial: Trial) -> Verdict:
    """SIGKILL at any call, while the corpus is encoded for the first time."""
    place = "encoding the corpus"
    for _ in range(MOST):
        trial.copy_corpus()
        ended = trial.start(trial.reference.striking(place, trial.rng)).wait()
        if not ended.killed:
            return trial.judge(ended)
        trial.broken += 1
    return trial.judge(trial.start().wait())


def signalled(*numbers: int) -> Callable[[Trial], Verdict]:
    """These signals come at any moments, until the run gets through or it is enough."""

    def fault(trial: Trial) -> Verdict:
        for _ in range(trial.rng.randint(1, MOST)):
            process = trial.go_on(marks)
            moments = sorted(trial.rng.uniform(0, trial.reference.seconds) for _ in numbers)
            for number, (before, moment) in zip(numbers, pairwise([0, *moments]), strict=True):
                if process.lives_for(moment - before):
                    process.signal(number)
                    trial.broken += 1
            ended = process.wait()
            _check_answer(trial, ended, numbers)
            if ended.status == 0:
                return trial.judge(ended)
        return trial.finish()

    return fault


def signalled_in(place: str, number: int) -> Callable[[Trial], Verdict]:
    """This signal comes at any call inside a place, and again in the calls that follow."""

    def fault(trial: Trial) -> Verdict:
        if place in OF_A_RESUMED_RUN:
            trial.stop_at(trial.rng.randrange(1, MAX_STEP))
        for _ in range(trial.rng.randint(1, MOST)):
            ended = trial.go_on(trial.reference.striking(place, trial.rng, number), marks).wait()
            trial.broken += 1
            _check_answer(trial, ended, [number])
            if ended.status == 0:
                return trial.judge(ended)
        return trial.finish()

    return fault


def _check_answer(trial: Trial, ended: Ended, numbers: Sequence[int]) -> None:
    """See that the process has saved and ended where it should have."""
    if reason := _why_no_answer(ended, numbers):
        raise LostError(f"{reason}: {ended}")
    asked = [number for number in STOPS if noted(number) in ended.out]
    at_once = ended.out.count(noted(signal.SIGINT)) > 1
    if ended.status != 0 and asked and not at_once and not trial.has_checkpoint:
        raise LostError(f"nothing was saved: {ended}")


def _why_no_answer(ended: Ended, numbers: Sequence[int]) -> str | None:
    """None where the process did as it should: answer signals between two updates, and only those in training."""
    if ended.status is None:
        return "hangs"
    if ended.status == 0:
        ignored = any(number in STOPS and UPDATE in ended.out.partition(noted(number))[2] for number in numbers)
        return "a signal was ignored" if ignored else None
    if -ended.status in numbers:
        return "no answer to a signal" if ON in ended.out and OFF not in ended.out else None
    if not any(ended.status == 128 + n and ended.complaints == [f"train_transformer.py: {STOPS[n]}"] for n in STOPS):
        return "another end"
    return None
