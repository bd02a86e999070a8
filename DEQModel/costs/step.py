"""What one step of a run comes to, part by part: that of a training with its update, and that of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.cost import ModelCost
from modules.cost import NUMBER, Work
from modules.solve_cost import DepthCost
from utils.cost import RULES


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
    model: ModelCost, depth: DepthCost, update: Work, *, n_chunks: int = 1, jacobian_samples: float = 0
) -> list[Part]:
    """Of an update.

    Args:
        model: its parts, on a chunk of the batch.
        depth: how often a chunk applies f.
        update: the optimizer's work.
        n_chunks: how many, one after the other.
        jacobian_samples: of the Jacobian's penalty; on average, where not every update has it.
    """
    f, b_evaluations = model.f, depth.b_solve.evaluations
    applied = depth.with_graph + depth.recomputed
    parts = [
        Part("embedding", 1, model.embedding.forward + model.embedding.backward),
        Part("injection, context", 1, model.context.forward + model.context.backward),
        Part("f in the solve", depth.solve.evaluations, f.forward),
        Part("solver", 1, depth.solve.own),
        Part("f with its graph", depth.with_graph, f.forward),
        Part("f, computed twice", 2 * depth.recomputed, f.forward),
        Part("vjp of f in the backward solve", b_evaluations, f.vjp),
        Part("backward solver", 1, depth.b_solve.own),
        Part("gradient through f", applied - depth.from_constant, f.backward),
        Part("gradient through f, not to z", depth.from_constant, f.to_context),
        Part("softmax", 1, model.head.forward + model.head.backward),
    ]
    if jacobian_samples:
        parts.append(Part("Jacobian penalty", 1, depth.penalty(f, jacobian_samples)))
    parts = [Part(part.name, n_chunks * part.times, part.each) for part in parts]
    return _with_work([*parts, Part("clipping, optimizer", 1, update)])


def evaluation_parts(model: ModelCost, depth: DepthCost) -> list[Part]:
    """Of a segment without gradients."""
    return _with_work(
        [
            Part("embedding", 1, model.embedding.forward),
            Part("injection, context", 1, model.context.forward),
            Part("f", depth.solve.evaluations, model.f.forward),
            Part("solver", 1, depth.solve.own),
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
        embedding, context, applications, head: what autograd keeps of these.
        histories: of the solves; the forward one is gone before the backward one begins, where that does not use it.
        memory: what one segment hands to the next, of both.
    """

    parameters: float
    gradients: float
    optimizer: float
    embedding: float
    context: float
    applications: float
    head: float
    histories: float
    memory: float

    @classmethod
    def of(cls, model: ModelCost, depth: DepthCost, n_parameters: int, optimizer: str, n_chunks: int) -> StepMemory:
        """Of an update that computes its batch in chunks, one after the other."""
        weights = NUMBER * n_parameters
        return cls(
            parameters=weights,
            gradients=weights,
            optimizer=weights * RULES[optimizer].state,
            embedding=NUMBER * model.embedding.kept,
            context=NUMBER * model.context.kept,
            applications=NUMBER * model.f.kept * depth.graphs,
            head=NUMBER * model.head.kept,
            histories=max(depth.solve.history, depth.b_solve.history),
            memory=NUMBER * model.memory * (n_chunks + 1),
        )

    @property
    def whole(self) -> float:
        """All of it."""
        return sum(vars(self).values())
