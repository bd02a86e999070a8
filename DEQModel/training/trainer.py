"""The training loop: updates, and between them log lines, checkpoints and validations."""

import dataclasses
import time
from collections.abc import Collection

import numpy as np
import torch

from config.depth import training_depth, validation_depth
from config.settings import Settings
from config.words import options
from data.batches import OrderedBatches
from data.corpus import DATASETS
from data.segments import Segment, TrainingBatches, TrainingSegment
from evaluation.evaluation import evaluate
from evaluation.probe import Probe
from evaluation.report import EvaluationReport
from models.protocol import LanguageModel
from modules.depth import Applications, Depth
from modules.deq import DEQModule
from runs.experiment import WEIGHTS_FILE, Experiment
from system.distributed import World
from system.out_of_memory import enough_memory
from system.progress import progress_bar
from system.signals import Signals, Stopped
from training.averaging import WeightAverage
from training.best_model import BestModel, Describe
from training.checkpoint import CHECKPOINT_FILE, Checkpoint, Part
from training.divergence import has_only_skipped, is_sound, no_model, too_many_skipped
from training.jacobian_penalty import JacobianPenalty
from training.kept_checkpoints import KeptCheckpoints
from training.learning_rate import LearningRate
from training.log_lines import for_bar
from training.memory import ChunkMemories, forget_nonfinite
from training.narration import Narration
from training.progress import Progress, ShallowStage
from training.random_states import RandomStates
from training.telemetry import Telemetry
from training.update import Update, Updater

LEARNING = (Updater, WeightAverage, Progress, LearningRate, ChunkMemories)
PARTS = (*LEARNING, Telemetry, ShallowStage, BestModel, OrderedBatches, RandomStates)
ENTRIES = {entry for part in PARTS for entry in part.ENTRIES}


class Trainer:
    """Trains a language model.

    Between two updates come, where they are due, a log line, a checkpoint and a validation, in this order: nothing is
    lost when the process dies in a validation.

    Args:
        model: the language model.
        settings: of the run.
        batches: this process's rows of the training text.
        validation: the validation split's segments, of all rows.
        experiment: where messages and curves go, and in whose folder checkpoints and the best model are kept.
        world: the processes that train together.
        corpus: identity of the vocabulary and the texts, for the checkpoints.
        describe: what stands beside the weights of the best model; None for nothing.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: Settings,
        batches: TrainingBatches,
        validation: Collection[Segment],
        experiment: Experiment,
        *,
        world: World | None = None,
        corpus: str = "",
        describe: Describe | None = None,
    ):
        self.model, self.settings, self.experiment, self.corpus = model, settings, experiment, corpus
        self.world = world or World()
        self.batches, self.validation = batches, validation
        # Solves of several processes stop as they would in one.
        self.depth = training_depth(settings, batch_sum=self.world.sum if self.world.size > 1 else None)
        self.validation_depth = validation_depth(settings)
        self.penalty = JacobianPenalty.of(settings)
        self.updater = Updater.of(model, settings, self.world)
        self.average = WeightAverage(settings, model)
        self.progress = Progress(settings.start_train_steps)
        self.rate = LearningRate(settings, self.updater.optimizer)
        self.rate.set(self.progress.step)
        rows = self.world.rows(settings.batch_size, settings.gpu0_bsz)
        self.memory = ChunkMemories(settings.batch_chunk, rows, self.device, self.world)
        self.telemetry, self.shallow_stage = Telemetry(), ShallowStage()
        unit = DATASETS[settings.dataset].unit
        solves = any(isinstance(depth, DEQModule) for _, depth in self.depth.stages)
        self.narration = Narration(experiment, self.progress, self.telemetry, settings.max_step, unit, solves=solves)
        self.best = BestModel(experiment, self.world, settings.max_step, describe)
        self.checkpoints, self.owes_a_save = KeptCheckpoints(experiment, ENTRIES), False
        self.random = RandomStates(settings.seed, self.device, self.world)
        self.signals = Signals()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def parts(self) -> list[Part]:
        """All that a checkpoint consists of, in the order in which it is restored."""
        learning = [self.updater, self.average, self.progress, self.rate, self.memory]
        return [*learning, self.telemetry, self.shallow_stage, self.best, self.batches, self.random]

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was written, under settings that may have changed since.

        Raises:
            UserError: it is of another kind of run, or memory ran out.
        """
        with enough_memory("the checkpoint", "make room on the device, or go on where there is more"):
            checkpoint.resume(self.parts)
        self.narration.go_on()
        if self.progress.bad_steps >= self.settings.max_bad_steps:
            self.progress.bad_steps = 0  # the run that they stopped has another go
        self.world.sum(np.zeros(1))  # all have read it, before it may get another name
        if self.world.is_first:
            self.checkpoints.go_on_from(checkpoint)

    def train(self) -> None:
        """Make all updates that are left.

        Raises:
            UserError: too many updates in a row were not finite; no model can be tested; or memory ran out.
            Stopped: a signal came, and a checkpoint has been written, unless updates were being skipped.
        """
        self.model.train()
        progress, max_step = self.progress, self.settings.max_step
        bar = progress_bar(max_step, "train", initial=progress.step, keep=True, hidden=not self.world.is_first)
        with self.signals, bar:
            self.narration.begin()
            nothing_to_test = progress.step >= max_step and not self._has_a_model()
            if progress.validation_pending or nothing_to_test:
                self.validate()
            while progress.step < max_step:
                start = time.perf_counter()
                for batch in self.batches.from_position(progress.position):
                    self.update(batch, start)
                    if bar.update():
                        bar.show(for_bar(self.telemetry.recent, self.narration.measure))
                    self._between_updates()
                    if progress.step >= max_step:
                        break
                    start = time.perf_counter()
                else:
                    progress.epoch, progress.position = progress.epoch + 1, 0
                    self.memory.clear()
            _, stop = self.signals.asked(self.world)
            if stop is not None:
                raise Stopped(stop)
            if not self._has_a_model():
                totals, way_back = self.telemetry.totals, self._way_back()
                raise no_model(progress, totals, self._last_depth(), way_back)

    def _last_depth(self) -> Depth:
        """That of the last update, as validations have it."""
        return self.validation_depth.at(self.progress.step - 1)

    def _has_a_model(self) -> bool:
        """Whether the stage of the last update came to one that can be tested."""
        shallow = isinstance(self._last_depth(), Applications)
        return not has_only_skipped(self.telemetry.totals) and self.best.is_of(shallow=shallow)

    def update(self, batch: TrainingSegment, start: float) -> Update:
        """One update on this process's rows of a batch, and what it means for the run.

        Args:
            batch: the rows.
            start: time at which the update before was over, and all that came behind it.

        Raises:
            UserError: memory ran out.
        """
        progress, lr, more = self.progress, self.rate.after(self.progress.step), self.settings.batch_chunk + 1
        depth = self.depth.at(progress.step)
        charge = self.penalty.at(progress.step) if isinstance(depth, DEQModule) else None
        with enough_memory(
            f"step {progress.step + 1}: the update",
            f"--batch_chunk {more} computes the batch in more parts, to the same end; or lower "
            f"{options(self.settings, 'tgt_len', 'mem_len')}",
        ):
            update = self.updater(batch, self.memory.chunks, depth, charge)
        progress.step += 1
        progress.position = batch.start + len(batch.tokens)
        progress.bad_steps = 0 if update.is_sound else progress.bad_steps + 1
        self.memory.chunks = [memory if update.is_sound else forget_nonfinite(memory) for memory in update.memories]
        self.rate.set(progress.step)
        if update.is_sound:
            self.average.add()
        tokens = len(batch.targets) * self.settings.batch_size
        self.telemetry.add(update, tokens=tokens, seconds=time.perf_counter() - start, lr=lr)
        if not update.is_sound:
            self.narration.skipped(update, self.settings.max_bad_steps)
        return update

    def _between_updates(self) -> None:
        settings, progress = self.settings, self.progress
        last = progress.step == settings.max_step
        if last or progress.step % settings.log_interval == 0:
            self.narration.updates()
        progress.validation_pending = self._validation_is_due()
        asked, stop = self.signals.asked(self.world)
        due = asked or last or progress.validation_pending or progress.step % settings.steps_between_saves == 0
        if due or (self.owes_a_save and progress.bad_steps == 0):
            self.save()
        if stop is not None:
            raise Stopped(stop)
        if progress.bad_steps >= settings.max_bad_steps:
            raise too_many_skipped(progress, self._last_depth(), self._way_back())
        if progress.validation_pending:
            self.validate()

    def _validation_is_due(self) -> bool:
        step = self.progress.step
        return step == self.settings.max_step or self._stage_ends() or step % self.settings.eval_interval == 0

    def _stage_ends(self) -> bool:
        step = self.progress.step
        return self.validation_depth.changes_at(step) and step > self.settings.start_train_steps

    def save(self) -> None:
        """Write a checkpoint; all processes take part. Where it cannot be written the run goes on.

        While updates are skipped the last one stays, as the weights may be ruined; the next sound update is saved.
        """
        if self.settings.debug:
            return
        with self.signals.later():
            self.best.write_what_waits()  # first, as the checkpoint tells which file it is
            owed, self.owes_a_save = self.owes_a_save, not self.world.of_first(is_sound(self.progress, self.model))
            if not self.owes_a_save:
                self._write()
            elif not owed:
                last = self.checkpoints.step
                before = "there is none" if last is None else f"the last one is of step {last}"
                self.narration.say(f"no checkpoint until an update is sound: {before}")
        self.world.of_first(None)  # whoever ends first takes the others along: not before the file is there

    def _write(self) -> None:
        content = {"settings": dataclasses.asdict(self.settings), "corpus": self.corpus}
        for part in self.parts:
            content |= part.state()
        if self.world.is_first:
            self.checkpoints.write(content | {"log_end": self.experiment.log_end})

    def _way_back(self) -> str:
        """Where the run goes on with other settings; all processes take part."""
        with self.signals.later():
            progress = self.progress
            return self.world.of_first(self.checkpoints.way_back(progress.step - progress.bad_steps))

    def validate(self) -> EvaluationReport:
        """Validate the model that counts in the stage of the last update; keep it if it is the best of that so far."""
        step, settings, world = self.progress.step, self.settings, self.world
        depth, model = self._last_depth(), self.average.model
        with self.signals.at_once():
            report = evaluate(model, self.validation, "valid", settings, depth, world=world)
        self.rate.consider(report.loss, step)
        with self.signals.later():
            self.best.consider(report, model)
        probe = None
        if report.solve is not None and world.is_first:
            probe = Probe.of(model, next(iter(self.validation)), settings)
        self.narration.validation(report, self.best.report, probe)
        if self.average.consider(report.loss):
            self.narration.say("the weights are averaged from here on (--asgd)")
        if self._stage_ends():
            ended = self.shallow_stage.end(report, several=len(self.validation_depth.stages) > 2)
            self.narration.say(f"end of {ended}: {report.measure.name} {report.shown}")
            self.rate.begin_stage()
            self.average.begin_stage()
        self.progress.validation_pending = False
        if step == settings.max_step:
            self.save()
        return report

    def restore_best(self) -> EvaluationReport:
        """Put the best model's weights back into the model; the report of its validation."""
        if self.world.of_first(bool(self.checkpoints.fault or self.best.fault)):
            self.save()  # once more, while the weights are still the last ones
        self.average.put_into_trained()  # the last model, should the best be lost
        if self.world.is_first:
            self.best.put_back(self.model)
        self.world.copy_from_first(self.model)
        return self.world.of_first(self.best.report)

    def unwritten(self) -> dict[str, str]:
        """Try once more to write the best model: which of its file and the checkpoint's are missing, and why."""
        self.best.write_what_waits()
        faults = {CHECKPOINT_FILE: self.checkpoints.fault, WEIGHTS_FILE: self.best.fault}
        return {name: fault for name, fault in faults.items() if fault}
