"""Solves whose sequences several processes share out."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import chain

from modules.report import REASONS, SolveReport
from modules.stop_rule import TINY


def whole_solve(parts: Sequence[SolveReport]) -> SolveReport:
    """The report of a whole solve, from those of its parts in the order of their sequences; without the traces.

    With the stop scope "batch" the parts have stopped together, and each knows the whole's figures.
    """
    first = parts[0]
    if first.stop_scope == "sequence":
        abs_residual, rel_residual = _residuals_of_the_whole(parts)
    else:
        abs_residual, rel_residual = first.abs_residual, first.rel_residual
    return dataclasses.replace(
        first,
        termination=REASONS[max(REASONS.index(part.termination) for part in parts)],
        n_steps=max(part.n_steps for part in parts),
        n_evals=max(part.n_evals for part in parts),
        best_step=max(part.best_step for part in parts),
        abs_residual=abs_residual,
        rel_residual=rel_residual,
        abs_trace=(),
        rel_trace=(),
        sequence_residuals=tuple(chain.from_iterable(part.sequence_residuals for part in parts)),
        sequence_steps=tuple(chain.from_iterable(part.sequence_steps for part in parts)),
        sequence_terminations=tuple(chain.from_iterable(part.sequence_terminations for part in parts)),
    )


def _residuals_of_the_whole(parts: Sequence[SolveReport]) -> tuple[float, float]:
    """‖g‖ and ‖g‖ / (‖f(z)‖ + tiny), where each part knows its own.

    A part with g = 0 does not tell its ‖f(z)‖, which then counts as 0.
    """
    norm = math.hypot(*(part.abs_residual for part in parts))
    if not math.isfinite(norm):
        return math.inf, math.inf
    images = (part.abs_residual / part.rel_residual - TINY if part.rel_residual else 0.0 for part in parts)
    return norm, norm / (math.hypot(*images) + TINY)
