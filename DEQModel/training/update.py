"""One update: chunks → loss → backward → clip → check → step.

Shapes: L tokens of a segment, B sequences of a batch, over all processes.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from config.settings import Settings
from data.segments import Segment
from models.protocol import LanguageModel, Memory
from modules.depth import Depth
from modules.report import SolveInfo
from system.distributed import World, sum_gradients
from system.state_dicts import load_into
from training.activation_penalty import ActivationPenalty
from training.checkpoint import CHECKPOINT_FILE
from training.jacobian_penalty import Charge
from training.optimizer import make_optimizer
from utils.optimizers import Clipping

CHANGEABLE = ("weight_decay", "adam_ratio")  # options of an optimizer that a run that goes on may change


@dataclass(frozen=True)
class Update:
    """What an update came to.

    Attributes:
        loss: of the whole batch, mean nll in nats per token, without the penalties.
        norm: of the whole objective's gradient, before clipping.
        memories: of these rows' chunks, for the next segment.
        solves: of the chunks; none where nothing was solved.
        jacobian_loss: the Jacobian penalty without its weight; None where the update had none.
        activation_loss: the activation penalty with its weights; None where there is none.
    """

    loss: float
    norm: float
    memories: Sequence[Memory]
    solves: Sequence[SolveInfo]
    jacobian_loss: float | None = None
    activation_loss: float | None = None

    @property
    def is_sound(self) -> bool:
        """Whether loss and gradient are finite; the weights are as they were where they are not."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Updater:
    """Updates a model on one batch after another; with the model and the optimizer a part of a run's state.

    Args:
        model: the language model.
        optimizer: of its parameters.
        clipping: of their gradients.
        world: the processes that share out a batch's rows.
        n_chunks: parts in which these rows are computed, one after the other.
        n_rows: B.
        penalty: on the states, where there is one.
    """

    ENTRIES = ("model", "optimizer")

    def __init__(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        clipping: Clipping,
        *,
        world: World,
        n_chunks: int,
        n_rows: int,
        penalty: ActivationPenalty | None = None,
    ):
        self.model, self.optimizer, self.clipping, self.world = model, optimizer, clipping, world
        self.n_chunks, self.n_rows, self.penalty = n_chunks, n_rows, penalty
        self.parallel: nn.Module = model
        if world.size > 1:
            self.parallel = DistributedDataParallel(model)
            self.parallel.register_comm_hook(None, sum_gradients)  # each process has its share of the loss

    @classmethod
    def of(cls, model: LanguageModel, settings: Settings, world: World) -> "Updater":
        """The updater that a run's settings ask for."""
        return cls(
            model,
            make_optimizer(model, settings),
            Clipping(model.parameters(), model.embedding_parameters() if settings.clip_nonemb else (), settings.clip),
            world=world,
            n_chunks=settings.batch_chunk,
            n_rows=settings.batch_size,
            penalty=ActivationPenalty.of(settings),
        )

    def __call__(
        self, batch: Segment, memories: Sequence[Memory | None], depth: Depth, charge: Charge | None = None
    ) -> Update:
        """Take a step on this process's rows of a batch, unless the loss or the gradient is not finite.

        Each chunk is weighted by its share of the whole batch's rows and has its own memory, so that the sum is the
        gradient of the undivided batch.

        Args:
            batch: the rows, tokens and targets (L, b).
            memories: of the chunks.
            depth: how deep the model goes.
            charge: the penalty on the equilibrium's Jacobian, where there is one.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if charge is not None:
            depth = partial(depth, jacobian_samples=charge.samples)
        parts, next_memories, solves = defaultdict(list), [], []
        tokens, targets = (part.tensor_split(self.n_chunks, 1) for part in (batch.tokens, batch.targets))
        for i in range(self.n_chunks):
            is_last = i == self.n_chunks - 1
            with nullcontext() if is_last or self.world.size == 1 else self.parallel.no_sync():
                output = self.parallel(tokens[i], targets[i], memories[i], depth)
                share = tokens[i].shape[1] / self.n_rows
                objective = output.nll.mean() * share
                parts["loss"].append(objective.detach())
                if charge is not None:
                    parts["jacobian_loss"].append(output.solve.jacobian_loss.detach() * share)
                    objective = objective + charge.weight * share * output.solve.jacobian_loss
                if self.penalty is not None:
                    penalty = self.penalty(output) * share
                    parts["activation_loss"].append(penalty.detach())
                    objective = objective + penalty
                objective.backward()
            next_memories.append(output.memory)
            solves += [output.solve] if output.solve is not None else []

        norm = self.clipping()
        # The host waits here, once: an update that is not finite must never reach the weights.
        norm, *sums = torch.stack([norm, *map(sum, parts.values())]).tolist()
        totals = dict(zip(parts, self.world.sum(np.array(sums)).tolist(), strict=True))
        update = Update(norm=norm, memories=next_memories, solves=solves, **totals)
        if update.is_sound:
            self.optimizer.step()
        return update

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; options of the optimizer that the user may have changed since are kept."""
        load_into(self.model, state["model"], CHECKPOINT_FILE)
        chosen = [{name: group[name] for name in CHANGEABLE if name in group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, kept in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(kept)
