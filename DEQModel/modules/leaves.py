"""The leaves of a graph, and whether they are still what they were when the graph was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction


def nodes_of(*outputs: Tensor, since: int | None = None) -> Iterator[Any]:
    """The nodes that a gradient entering the outputs reaches; with `since`, of those made after `mark()` gave that."""
    seen, waiting = set(), [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or (since is not None and node._sequence_nr() < since):
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)


def mark() -> int:
    """The number of the next node that this thread's graphs get."""
    return torch.zeros((), requires_grad=True).clone().grad_fn._sequence_nr()


def leads_beyond(output: Tensor, start: Tensor) -> bool:
    """Whether a gradient that enters the output reaches any leaf but `start`."""
    for node in nodes_of(output):
        # A custom function, as of a reentrant checkpoint, may reach leaves that the graph does not show.
        if isinstance(node, BackwardCFunction) or getattr(node, "variable", start) is not start:
            return True
    return False


SAME = 1e-6  # relative to the sum of all values: what may be rounding, where f does not give the same bits


@dataclass(frozen=True)
class Unchanged:
    """Knows whether weights were changed in place before a backward pass, for maps that are then evaluated again.

    PyTorch itself notices that for tensors that it keeps, and nothing is kept of a map that is recomputed.
    """

    versions: tuple[tuple[Tensor, int], ...]

    @classmethod
    def since(cls, number: int, *outputs: Tensor) -> Unchanged:
        """Of the leaves that f uses itself: those behind nodes that were made after `mark()` gave that number."""
        nodes = nodes_of(*outputs, since=number)
        leaves = [node.variable for node in nodes if hasattr(node, "variable")]
        return cls(tuple((leaf, leaf._version) for leaf in leaves))

    @property
    def changed(self) -> list[Tensor]:
        """Those that are not what they were."""
        return [leaf for leaf, version in self.versions if leaf._version != version]

    def check(self) -> None:
        """Raises RuntimeError where one of them has changed."""
        for leaf in self.changed:
            raise RuntimeError(
                f"a leaf {tuple(leaf.shape)} that f uses was changed in place between forward and backward, and "
                "this kind of gradient evaluates f again on backward: call optimizer.step() after backward"
            )

    def watch(self, output: Tensor) -> Tensor:
        """The output, with a check before its backward pass goes on."""
        if output.grad_fn is not None:
            output.grad_fn.register_prehook(_after(self.check))
        return output


def sums_of(x: Tensor) -> Tensor:
    """Σ x and Σ |x| (2,), by which values are known again without keeping them."""
    values = x.detach().double()
    return torch.stack([values.sum(), values.abs().sum()])


def same(sums: Tensor, others: Tensor) -> bool:
    """Whether they are of the same values, but for rounding."""
    return not bool(((sums - others).abs() > SAME * others[1]).any())


class SameValues:
    """f, refusing to give other values for the same argument when it is computed again on backward.

    That shows whatever changed between forward and backward, and is no leaf of the graph: a buffer, an input, a frozen
    weight, a weight in another's place. What f gave is remembered by two sums.
    """

    def __init__(self, f: Callable[[Tensor], Tensor]):
        self.f = f
        self.sums: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        fz = self.f(z)
        if not isinstance(fz, Tensor):
            return fz
        sums = sums_of(fz)
        if self.sums is None:
            self.sums = sums
        elif not same(sums, self.sums):
            raise RuntimeError(
                "f gave other values on backward than forward: something that it uses was changed in between, and this "
                "kind of gradient evaluates f again: call backward first"
            )
        return fz


def _after(check: Callable[[], None]) -> Callable[[tuple[Tensor | None, ...]], None]:
    def prehook(_: tuple[Tensor | None, ...]) -> None:
        check()

    return prehook
