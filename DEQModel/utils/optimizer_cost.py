"""What an update of a model's parameters costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from modules.cost import Work, passes, product

CLIPPING = 3  # the norm reads, the scaling reads and writes
NEWTON_SCHULZ = 5  # iterations


class UpdateRule(NamedTuple):
    """What an optimizer does to a parameter's entry."""

    state: int  # numbers that it remembers
    passes: int  # reads and writes of an update, as PyTorch's operations make them one by one


ADAM = UpdateRule(2, 18)  # m: lerp 3; v: scaled 2, added to 4; √v 2, / 2, + 2; p: 3
MOMENTUM = UpdateRule(1, 14)  # m: lerp 3; the direction: lerp 3, norm 1, / 2; p: scaled 2, 3
RULES: Mapping[str, UpdateRule] = {
    "Adam": ADAM,
    "SGD": UpdateRule(0, 3),
    "Adagrad": UpdateRule(1, 11),  # v: 4; √v 2, + 2; p: 3
    "RMSprop": UpdateRule(1, 13),  # v: 2, 4; √v 2, + 2; p: 3
    "RAdam": ADAM,
    "Muon": ADAM,  # of what is no matrix
}


@dataclass(frozen=True)
class UpdateCost:
    """An update.

    Attributes:
        work: clipping, and the optimizer's step.
        state: numbers that the optimizer remembers.
    """

    work: Work
    state: float


def update_cost(
    optimizer: str, sizes: Sequence[int], matrices: Sequence[tuple[int, int]] = (), *, weight_decay: bool
) -> UpdateCost:
    """Of all parameters, their gradients clipped to a norm.

    Args:
        optimizer: a key of RULES.
        sizes: entries of the parameters that it updates entry by entry.
        matrices: (rows, columns) of those that Muon orthogonalises.
        weight_decay: whether there is one, which Muon's matrices are ready for anyway.
    """
    rule, n_entries = RULES[optimizer], sum(sizes)
    times = rule.passes + CLIPPING + (3 if weight_decay else 0)
    work, state = passes(n_entries, times, times / 3 * len(sizes)), n_entries * rule.state
    for rows, columns in matrices:
        n_entries, times = rows * columns, MOMENTUM.passes + CLIPPING
        work += passes(n_entries, times, times / 3) + orthogonalisation(rows, columns)
        state += n_entries * MOMENTUM.state
    return UpdateCost(work, state)


def orthogonalisation(rows: int, columns: int) -> Work:
    """Newton and Schulz: X ← a X + (b A + c A²) X with A = X Xᵀ. For X (n, m) with n ≤ m it has each time the products

    A             (n, m) × (m, n)
    b A + c A²    (n, n) × (n, n), which reads A once more
    X             (n, n) × (n, m), which reads X once more

    in single precision, as on a CPU; on a GPU the optimizer has them in bfloat16.
    """
    n, m = sorted((rows, columns))
    products = product(n, m, n) + product(n, n, n) + product(n, n, m)
    return NEWTON_SCHULZ * (products + passes(n * (n + m), 1, 0))
