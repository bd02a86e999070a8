"""How well a model does on examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.protocol import LanguageModel
from modules.depth import Depth
from modules.report import SolveInfo
from synthetic.examples import columns, to
from synthetic.task import Examples

NOT_COUNTED = -1  # in the place of targets


@dataclass(frozen=True)
class Score:
    """What a model makes of some examples; sums over the positions that count, as tensors that may carry a graph."""

    nll: Tensor  # nats
    n_right: Tensor
    n_counted: Tensor
    solve: SolveInfo | None


@dataclass(frozen=True)
class Trial:
    """A test of a model on one set of examples.

    Attributes:
        p: hops of its task, where that is p_hop.
        length: T of its sequences.
        threshold: of its solves, or how often the cell was applied; None for a model without such.
        loss, accuracy: means over the positions that count; the loss in nats.
        steps, residual: means of its solves; None where nothing was solved.
        seconds: that it took.
    """

    p: int
    length: int
    threshold: int | None
    loss: float
    accuracy: float
    steps: float | None
    residual: float | None
    seconds: float


def score(model: LanguageModel, examples: Examples, depth: Depth) -> Score:
    """The sums over one batch; the host does not wait for the device."""
    hidden = model.hidden(examples.tokens, None, depth)
    counted = examples.counted
    log_p = model.head.log_prob(hidden.states.flatten(0, 1))  # (L * B, V)
    targets = examples.targets.where(counted, NOT_COUNTED).flatten()
    nll = F.nll_loss(log_p, targets, reduction="sum", ignore_index=NOT_COUNTED)
    return Score(nll, (log_p.detach().argmax(dim=1) == targets).sum(), counted.sum(), hidden.solve)


@torch.no_grad()
def tried(
    model: LanguageModel,
    examples: Examples,
    depth: Depth,
    *,
    p: int,
    length: int,
    threshold: int | None,
    batch_size: int,
) -> Trial:
    """The figures of a whole test set, `batch_size` sequences at a time."""
    device = next(model.parameters()).device
    start, scores = time.perf_counter(), []
    for first in range(0, examples.tokens.shape[1], batch_size):
        part = to(columns(examples, slice(first, first + batch_size)), device)
        scores.append(score(model, part, depth))
    nll, n_right, n_counted = (
        sum(float(getattr(part, name)) for part in scores) for name in ("nll", "n_right", "n_counted")
    )
    reports = [part.solve.forward for part in scores if part.solve is not None]
    return Trial(
        p=p,
        length=length,
        threshold=threshold,
        loss=nll / n_counted,
        accuracy=n_right / n_counted,
        steps=mean([report.n_steps for report in reports]),
        residual=mean([report.residual for report in reports]),
        seconds=time.perf_counter() - start,
    )


def mean(values: Sequence[float]) -> float | None:
    """None of none."""
    return sum(values) / len(values) if values else None
