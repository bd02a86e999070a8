"""The learning rate as a function of the step, and its fall when validation stops improving."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

FALL = 0.4  # share of the updates over which a trapezoid falls


@dataclass(frozen=True)
class Schedule:
    """The learning rate of the update that follows `step` updates.

        step < warmup_step        lr * step / warmup_step        (inv_sqrt: / warmup_step**1.5)
        cosine                    eta_min + (lr - eta_min) (1 + cos(pi * step / max_step)) / 2
        inv_sqrt                  lr * step**-0.5
        trapezoid                 lr; over the last 40 % of max_step it falls linearly to eta_min
        constant, dev_perf        lr

    Each step of `when` that has been reached divides it by 10, with any kind and in the warm-up too.

    Cosine and trapezoid count from step 0, not from the end of the warm-up; inv_sqrt warms up so that it meets its
    fall. The very first update (step 0) has the rate of step 1 while the rate warms up: update 1 uses
    lr / warmup_step, neither the full rate nor none at all.

    Args:
        kind: a key of `SCHEDULES`; dev_perf's `lr` is lowered by a `Plateau`.
        lr: highest rate (inv_sqrt: factor).
        warmup_step: steps of linear warm-up.
        max_step: step at which cosine and trapezoid reach eta_min; they stay there.
        eta_min: last rate of cosine and trapezoid.
        when: steps (updates, not epochs) at which the rate is divided by 10.

    Source: cosine, Loshchilov and Hutter, arXiv 1608.03983; inv_sqrt, Vaswani et al., arXiv 1706.03762, §5.3;
    trapezoid, Hägele et al., arXiv 2405.18392.
    """

    kind: str
    lr: float
    warmup_step: int = 0
    max_step: int = 1
    eta_min: float = 0.0
    when: Sequence[int] = ()

    def __call__(self, step: int) -> float:
        """The rate after `step` updates, for the next one."""
        return SCHEDULES[self.kind](self, step) / 10 ** sum(step >= fall for fall in self.when)


def _warming_up(schedule: Schedule, step: int) -> float | None:
    if step < schedule.warmup_step:
        return schedule.lr * max(step, 1) / schedule.warmup_step
    return None


def _cosine(schedule: Schedule, step: int) -> float:
    if (rate := _warming_up(schedule, step)) is not None:
        return rate
    share = min(step / schedule.max_step, 1.0)
    return schedule.eta_min + (schedule.lr - schedule.eta_min) * (1 + math.cos(math.pi * share)) / 2


def _inv_sqrt(schedule: Schedule, step: int) -> float:
    first = max(step, 1)
    if step > schedule.warmup_step:
        return schedule.lr * first**-0.5
    return schedule.lr * (first / schedule.warmup_step**1.5 if schedule.warmup_step else 1.0)


def _trapezoid(schedule: Schedule, step: int) -> float:
    if (rate := _warming_up(schedule, step)) is not None:
        return rate
    left = min(max(1 - step / schedule.max_step, 0.0) / FALL, 1.0)
    return schedule.eta_min + (schedule.lr - schedule.eta_min) * left


def _constant(schedule: Schedule, step: int) -> float:
    rate = _warming_up(schedule, step)
    return schedule.lr if rate is None else rate


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "cosine": _cosine,
    "inv_sqrt": _inv_sqrt,
    "trapezoid": _trapezoid,
    "dev_perf": _constant,
    "constant": _constant,
}


@dataclass(frozen=True)
class Plateau:
    """The dev_perf rate: multiplied by `decay_rate` after more than `patience` validations without progress.

    Progress is a loss below the best one by more than 1e-4 of it. The rate never falls below `lr_min`.
    A value, not a process: `after(loss)` returns the state that follows, so that a run can be saved.

    Args:
        lr: the rate of now.
        decay_rate, lr_min: factor, and smallest rate.
        patience: validations without progress that change nothing; 0 lowers the rate after the first.
        best: lowest loss so far, nats per token.
        bad: validations without progress since it, or since the rate fell.
    """

    lr: float
    decay_rate: float
    lr_min: float
    patience: int
    best: float = math.inf
    bad: int = 0

    def after(self, loss: float) -> "Plateau":
        """The state after a validation with this loss (nats per token)."""
        if loss < self.best * (1 - 1e-4):
            return replace(self, best=loss, bad=0)
        if self.bad < self.patience:
            return replace(self, bad=self.bad + 1)
        return replace(self, lr=min(self.lr, max(self.lr * self.decay_rate, self.lr_min)), bad=0)


@dataclass(frozen=True)
class Patience:
    """Tells a validation without progress: its loss is above the best of those that are more than `n` validations old.

    A value, as `Plateau`: `after(loss)` returns the state that follows. A loss that is not finite is no progress.

    Args:
        n: validations that the comparison leaves out, the last ones; 0 compares with all.
        losses: of all validations so far, nats per token, the oldest first.

    Source: the trigger of Merity, Keskar and Socher, arXiv 1708.02182, algorithm 1.
    """

    n: int
    losses: tuple[float, ...] = ()

    def ends_with(self, loss: float) -> bool:
        """Whether a validation with this loss (nats per token) is one without progress."""
        old = self.losses[: max(len(self.losses) - self.n, 0)]
        return bool(old) and not loss <= min(old)

    def after(self, loss: float) -> "Patience":
        """The state after a validation with this loss."""
        return replace(self, losses=(*self.losses, math.inf if math.isnan(loss) else loss))


@dataclass(frozen=True)
class Annealing:
    """Divides the rate by 10 after each validation without progress; then the best loss counts as one of now.

    Args:
        patience: tells such validations.
        falls: how often the rate has been divided.
    """

    patience: Patience
    falls: int = 0

    def after(self, loss: float) -> "Annealing":
        """The state after a validation with this loss (nats per token)."""
        if self.patience.ends_with(loss):
            return Annealing(replace(self.patience, losses=(min(self.patience.losses),)), self.falls + 1)
        return replace(self, patience=self.patience.after(loss))
