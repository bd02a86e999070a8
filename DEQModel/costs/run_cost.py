"""What the steps of a run cost: its settings, its model's formulas and its depths put together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch.overrides import TorchFunctionMode

from config.depth import evaluation_depth, training_depth, validation_depth
from config.flags import CommandLine
from config.settings import Settings
from config.words import mistakes_in_flags
from costs.step import Part, StepMemory, evaluation_parts, training_parts
from costs.words import Words
from evaluation.evaluation import EVAL_ROWS
from models.cost import ModelCost, Segment
from models.maps import no_maps
from modules.depth import Depth
from modules.deq import DEQModule
from system.errors import UserError
from system.out_of_memory import enough_memory
from utils.muon import Muon
from utils.optimizer_cost import UpdateCost, update_cost


class Undrawn(TorchFunctionMode):
    """Leaves parameters as they are where they would be drawn, so that their memory is asked for and not touched.

    On the device "meta" they would need none, but what little is computed there loads PyTorch's compiler.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__.endswith(("normal_", "uniform_")):  # of tensors, and of nn.init
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


class ParameterShapes(NamedTuple):
    """A model's parameters, as its optimizer takes them."""

    sizes: Sequence[int]  # entries of those that are updated entry by entry
    matrices: Sequence[tuple[int, int]]  # (rows, columns) of those that Muon orthogonalises


@dataclass(frozen=True)
class RunCost:
    """The costs of a run.

    Attributes:
        command: its program's command line.
        settings: its settings.
        words: of its vocabulary.
    """

    command: CommandLine
    settings: Settings
    words: Words

    @cached_property
    def config(self) -> Any:
        """The model's configuration.

        Raises:
            UserError: there is no model of these settings and words, or there are no formulas for it.
        """
        if self.command.spec.cost is None:
            raise UserError(f"--cost: there are no formulas for a {self.command.spec.name}; leave it out")
        with mistakes_in_flags(self.command.flag_names):
            return self.command.spec.configure(self.settings, self.words.n_token)

    @cached_property
    def parameters(self) -> ParameterShapes:
        """Those of the model.

        Raises:
            UserError: not even their room is there.
        """
        with enough_memory("--cost: a model of this size", "lower its widths"), Undrawn():
            model = self.command.spec.build(self.config)
        if self.settings.optim != "Muon":
            return ParameterShapes([parameter.numel() for parameter in model.parameters()], ())
        sizes, matrices = [], []
        for group in Muon(model.parameters(), **no_maps(model)).param_groups:
            for parameter in group["params"]:
                if group["matrices"]:
                    matrices.append((len(parameter), parameter[0].numel()))
                else:
                    sizes.append(parameter.numel())
        return ParameterShapes(sizes, matrices)

    @property
    def n_parameters(self) -> int:
        """Entries of all of them."""
        sizes, matrices = self.parameters
        return sum(sizes) + sum(rows * columns for rows, columns in matrices)

    @property
    def update(self) -> UpdateCost:
        """Clipping, and the optimizer's step."""
        return update_cost(self.settings.optim, *self.parameters, weight_decay=self.settings.weight_decay > 0)

    def stages(self) -> Iterator[tuple[int, Depth]]:
        """(first step, depth) of those stages of the training that come to an update."""
        settings, stages = self.settings, training_depth(self.settings).stages
        ends = [first for first, _ in stages[1:]] + [settings.max_step]
        for (first, depth), end in zip(stages, ends, strict=True):
            if first < settings.max_step and settings.start_train_steps < end:
                yield max(first, settings.start_train_steps), depth

    def _model(self, n_rows: int, n_position: int, *, training: bool) -> ModelCost:
        shares = self.words.shares(getattr(self.config, "cutoffs", ()))
        with mistakes_in_flags(self.command.flag_names, "--cost: "):
            return self.command.spec.cost(self.config, Segment(n_rows, n_position, training, shares))

    def _chunk(self, n_rows: int) -> ModelCost:
        return self._model(math.ceil(n_rows / self.settings.batch_chunk), self.settings.tgt_len, training=True)

    def training(self, depth: Depth, n_rows: int) -> list[Part]:
        """An update on so many rows."""
        settings = self.settings
        samples = settings.jac_samples * settings.jac_loss_freq if settings.jac_loss_weight else 0
        return training_parts(
            self._chunk(n_rows),
            depth,
            self.update.work,
            n_chunks=settings.batch_chunk,
            jacobian_samples=samples if isinstance(depth, DEQModule) else 0,
        )

    def memory(self, depth: Depth, n_rows: int) -> StepMemory:
        """Of an update on so many rows."""
        return StepMemory.of(
            self._chunk(n_rows), depth, self.n_parameters, self.update.state, self.settings.batch_chunk
        )

    def agreements(self, depth: Depth, n_rows: int) -> int:
        """How often in an update several processes agree on whether a solve goes on."""
        if not isinstance(depth, DEQModule) or depth.stop_scope == "sequence" or depth.f_thres_delta:
            return 0
        times = self._chunk(n_rows).times(depth)
        return self.settings.batch_chunk * (times.solve.evaluations + times.b_solve.evaluations)

    @property
    def last_depth(self) -> Depth:
        """What --eval does, or the validations at the end of the training."""
        return evaluation_depth(self.settings) if self.settings.eval else validation_depth(self.settings).stages[-1][1]

    def evaluation(self) -> list[Part]:
        """A segment of an evaluation."""
        model = self._model(EVAL_ROWS, self.settings.eval_tgt_len, training=False)
        return evaluation_parts(model, self.last_depth)
