"""What computing costs, in operations and bytes: the unit of account of all cost formulas.

Numbers are of single precision, 4 bytes each. Formulas count what a graph of PyTorch operations does one by one, so
each operation reads its arguments from memory and writes its result there.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBER = 4  # bytes


@dataclass(frozen=True)
class Work:
    """Work that a machine is given; it adds up, and `3 * work` is that work three times.

    Attributes:
        flops: operations of matrix products, 2 a multiply-add.
        streamed: bytes that the matrix products read and write, which may hide behind their operations.
        moved: bytes that all other operations read and write.
        calls: operations that are started.
    """

    flops: float = 0
    streamed: float = 0
    moved: float = 0
    calls: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.streamed + other.streamed,
            self.moved + other.moved,
            self.calls + other.calls,
        )

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.streamed * times, self.moved * times, self.calls * times)

    __rmul__ = __mul__

    def __sub__(self, other: Work) -> Work:
        return self + -1 * other

    @property
    def bytes(self) -> float:
        """All that goes through memory."""
        return self.streamed + self.moved


def product(rows: float, inner: float, columns: float, *, count: float = 1) -> Work:
    """`count` matrix products (rows, inner) × (inner, columns): 2 · rows · inner · columns operations each.

    The two products of its gradient, (rows, columns) × (columns, inner) to the first factor and (inner, rows) ×
    (rows, columns) to the second one, have as many operations, and read and write as much.
    """
    if rows * inner * columns == 0:
        return Work()
    numbers = rows * inner + inner * columns + rows * columns
    return Work(2 * rows * inner * columns * count, NUMBER * numbers * count, 0, 1)


def passes(entries: float, times: float, calls: float) -> Work:
    """Elementwise operations that read or write tensors of so many entries so many times."""
    return Work(0, 0, NUMBER * entries * times, calls)


@dataclass(frozen=True)
class Piece:
    """A part of a model that is computed once a segment.

    Attributes:
        forward, backward: its work.
        kept: entries that autograd keeps of it until the backward pass, and that are no parameters.
    """

    forward: Work = Work()
    backward: Work = Work()
    kept: float = 0

    def __add__(self, other: Piece) -> Piece:
        return Piece(self.forward + other.forward, self.backward + other.backward, self.kept + other.kept)

    def __mul__(self, times: float) -> Piece:
        return Piece(self.forward * times, self.backward * times, self.kept * times)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Application:
    """One application of a map f(z; context). That of no map at all costs nothing.

    Attributes:
        forward: f(z).
        vjp: yᵀ ∂f/∂z alone, a product of the backward solve.
        backward: the gradients to z and to all that f uses.
        to_context: those without the one to z, where z is a constant.
        kept: entries that autograd keeps of it, and that neither are parameters nor belong to the context.
        state: entries of z.
        last: its last product, where only sums follow, so that ∂f/∂z does not depend on what it comes to.
    """

    forward: Work = Work()
    vjp: Work = Work()
    backward: Work = Work()
    to_context: Work = Work()
    kept: float = 0
    state: float = 0
    last: Work = Work()

    def after(self, other: Application) -> Application:
        """f(g(z)), where `other` is g."""
        return Application(
            forward=self.forward + other.forward,
            vjp=self.vjp + other.vjp,
            backward=self.backward + other.backward,
            to_context=self.backward + other.to_context,
            kept=self.kept + other.kept,
            state=other.state,
            last=self.last,
        )
