"""From a run to its `TrainingState`, and back."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from evaluation.evaluation import EvaluationReport
from runs.experiment import WEIGHTS_FILE
from system.checkpoints import archive_signature, check_archive, load_into
from system.errors import UserError
from system.random_states import random_states, restore_random_states
from training.checkpoint import CHECKPOINT_FILE, TrainingState
from training.optimizers import set_rate
from training.results import TrainingTotals
from training.row_memory import joined, rows_of
from training.telemetry import Window

if TYPE_CHECKING:
    from training.trainer import Trainer


def captured(trainer: Trainer) -> TrainingState | None:
    """Where a run stands, on the first process; None on the others, which must take part all the same."""
    memories = trainer.world.gather(joined(trainer.memory))
    random = trainer.world.gather(random_states(trainer.device))
    if not trainer.world.is_first:
        return None
    return TrainingState(
        settings=dataclasses.asdict(trainer.settings),
        corpus=trainer.corpus,
        model=trainer.model.state_dict(),
        optimizer=trainer.optimizer.state_dict(),
        step=trainer.step,
        epoch=trainer.epoch,
        position=trainer.position,
        lengths=trainer.batches.lengths_state(),
        memory=joined(memories),
        random=random,
        plateau=vars(trainer.plateau),
        window=trainer.window.as_dict(),
        bad_steps=trainer.bad_steps,
        validation_pending=trainer.validation_pending,
        totals=vars(trainer.totals),
        best=trainer.best.report and dataclasses.asdict(trainer.best.report),
        best_file=trainer.best.signature,
        after_shallow=trainer.after_shallow and dataclasses.asdict(trainer.after_shallow),
        log_end=trainer.experiment.log_end,
    )


def resume(trainer: Trainer, state: TrainingState) -> None:
    """Put a new trainer where `state` was captured, under settings that may have changed since.

    Raises:
        UserError: the state is not of such a run.
    """
    try:
        load_into(trainer.model, state.model, CHECKPOINT_FILE)
        trainer.optimizer.load_state_dict(state.optimizer)
        _restore_course(trainer, state)
        _restore_reports(trainer, state)
        _restore_randomness(trainer, state)
    except (AttributeError, IndexError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"--restart_dir {trainer.settings.restart_dir}: its checkpoint holds the state of another kind of run "
            f"({type(error).__name__}: {error}): pass the folder of a run of this script"
        ) from error
    trainer.validation_pending = state.validation_pending
    if trainer.world.is_first:
        state.become_the_newest()
    state.model.clear()  # a gigabyte, of which the model and the optimizer have their own
    state.optimizer.clear()


def _restore_course(trainer: Trainer, state: TrainingState) -> None:
    settings = trainer.settings
    trainer.step, trainer.epoch, trainer.position = state.step, state.epoch, state.position
    trainer.bad_steps = state.bad_steps if state.bad_steps < settings.max_bad_steps else 0
    lowered = state.plateau["lr"] if settings.lr == state.settings["lr"] else settings.lr
    trainer.plateau = replace(trainer.plateau, lr=lowered, best=state.plateau["best"], bad=state.plateau["bad"])
    if settings.scheduler == "dev_perf":
        trainer.schedule = replace(trainer.schedule, lr=lowered)
    for group in trainer.optimizer.param_groups:
        group["weight_decay"] = settings.weight_decay
    set_rate(trainer.optimizer, trainer.lr)
    mine = rows_of(state.memory, trainer.rows, trainer.device)
    chunks = np.array_split(np.arange(len(trainer.rows)), settings.batch_chunk)
    trainer.memory = [rows_of(mine, range(rows[0], rows[-1] + 1), trainer.device) for rows in chunks]


def _restore_reports(trainer: Trainer, state: TrainingState) -> None:
    trainer.window, trainer.totals = Window.of(state.window), TrainingTotals(**state.totals)
    trainer.after_shallow = state.after_shallow and EvaluationReport.of(state.after_shallow)
    if state.best is not None and trainer.world.of_first(_best_is_there(trainer, state)):
        trainer.best.report, trainer.best.signature = EvaluationReport.of(state.best), state.best_file


def _best_is_there(trainer: Trainer, state: TrainingState) -> bool:
    """Whether the best model that the checkpoint knows may be looked for again at the end.

    A sound file that is another was written after the checkpoint: the validation that found it will be repeated, and
    the file written again.
    """
    if trainer.experiment.folder is None:
        return False
    path = trainer.experiment.folder / WEIGHTS_FILE
    try:
        check_archive(path, remedy="the search for the best model starts again")
        signature, ended = archive_signature(path), trainer.step >= trainer.settings.max_step
        replaced = signature != state.best_file and ended and not state.validation_pending
        if signature is None or state.best_file is None or replaced:
            raise UserError(f"{path} does not hold the best model: the search for it starts again")
    except UserError as error:
        trainer.experiment.log(f"warning: {error}")
        return False
    return True


def _restore_randomness(trainer: Trainer, state: TrainingState) -> None:
    """The generators' states, where there is one for each process and the seed is still the same."""
    settings, world = trainer.settings, trainer.world
    trainer.batches.restore_lengths(state.lengths)
    if settings.seed == state.settings["seed"] and len(state.random) == world.size:
        restore_random_states(state.random[world.rank], trainer.device)
        return
    (seed,) = np.random.SeedSequence((settings.seed, state.step, world.rank)).generate_state(1)
    torch.manual_seed(int(seed))
