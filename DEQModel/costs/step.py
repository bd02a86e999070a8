"""What one step of a run comes to, part by part: that of a training with its update, and that of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.cost import ModelCost
from modules.cost import NUMBER, Work
from modules.depth import Depth


@dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        name: of it.
        times: how often it is computed.
        each: its work, once.
    """

    name: str
    times: int
    each: Work

    @property
    def work(self) -> Work:
        """All of it."""
        return self.times * self.each


def training_parts(
    model: ModelCost, depth: Depth, update: Work, *, n_chunks: int = 1, jacobian_samples: float = 0
) -> list[Part]:
    """Of an update.

    Args:
        model: its parts, on a chunk of the batch.
        depth: how deep it goes.
        update: the optimizer's work.
        n_chunks: how many, one after the other.
        jacobian_samples: of the Jacobian's penalty; on average, where not every update has it.
    """
    f, times = model.f, model.times(depth)
    applied = times.with_graph + times.recomputed
    parts = [
        Part("embedding", 1, model.embedding.forward + model.embedding.backward),
        Part("layers", 1, model.layers.forward + model.layers.backward),
        Part("injection, context", 1, model.context.forward + model.context.backward),
        Part("f in the solve", times.solve.evaluations, f.forward),
        Part("solver", 1, times.solve.own),
        Part("f with its graph", times.with_graph, f.forward),
        Part("f, computed twice", 2 * times.recomputed, f.forward),
        Part("vjp of f in the backward solve", times.b_solve.evaluations, f.vjp),
        Part("backward solver", 1, times.b_solve.own),
        Part("gradient through f", applied - times.from_constant, f.backward),
        Part("gradient through f, not to z", times.from_constant, f.to_context),
        Part("softmax", 1, model.head.forward + model.head.backward),
    ]
    if jacobian_samples:
        parts.append(Part("Jacobian penalty", 1, times.penalty(f, jacobian_samples)))
    parts = [Part(part.name, n_chunks * part.times, part.each) for part in parts]
    return _with_work([*parts, Part("clipping, optimizer", 1, update)])


def evaluation_parts(model: ModelCost, depth: Depth) -> list[Part]:
    """Of a segment without gradients."""
    times = model.times(depth)
    return _with_work(
        [
            Part("embedding", 1, model.embedding.forward),
            Part("layers", 1, model.layers.forward),
            Part("injection, context", 1, model.context.forward),
            Part("f", times.solve.evaluations, model.f.forward),
            Part("solver", 1, times.solve.own),
            Part("softmax", 1, model.head.forward),
        ]
    )


def _with_work(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.work != Work()]


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step needs at its end; what operations hold for a moment comes on top.

    Attributes:
        parameters, gradients, optimizer: the weights, and what is as large as they are.
        embedding, layers, context, applications, head: what autograd keeps of these.
        histories: of the solves; the forward one is gone before the backward one begins, where that does not use it.
        memory: what one segment hands to the next, of both.
    """

    parameters: float
    gradients: float
    optimizer: float
    embedding: float
    layers: float
    context: float
    applications: float
    head: float
    histories: float
    memory: float

    @classmethod
    def of(cls, model: ModelCost, depth: Depth, n_parameters: int, n_remembered: float, n_chunks: int) -> StepMemory:
        """Of an update that computes its batch in chunks, one after the other.

        Args:
            model: its parts, on a chunk.
            depth: how deep it goes.
            n_parameters, n_remembered: numbers of the weights, and of what the optimizer remembers of them.
            n_chunks: how many.
        """
        weights, times = NUMBER * n_parameters, model.times(depth)
        return cls(
            parameters=weights,
            gradients=weights,
            optimizer=NUMBER * n_remembered,
            embedding=NUMBER * model.embedding.kept,
            layers=NUMBER * model.layers.kept,
            context=NUMBER * model.context.kept,
            applications=NUMBER * model.f.kept * times.graphs,
            head=NUMBER * model.head.kept,
            histories=max(times.solve.history, times.b_solve.history),
            memory=NUMBER * model.memory * (n_chunks + 1),
        )

    @property
    def whole(self) -> float:
        """All of it."""
        return sum(vars(self).values())
