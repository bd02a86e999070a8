"""The training loop: updates, log lines, checkpoints, validations, and the best model so far.

Shapes: L tokens of a segment, B sequences of a batch, over all processes.
"""

import math
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config.settings import Settings
from data.segments import Segment, TrainingBatches, TrainingSegment
from evaluation.evaluation import EvaluationReport, evaluate
from evaluation.probe import Probe
from runs.experiment import Experiment
from system.distributed import World, sum_gradients
from system.errors import UserError
from system.out_of_memory import enough_memory
from system.progress import progress_bar
from system.signals import Signals, Stopped
from training.best_model import BestModel
from training.checkpoint import TrainingState
from training.jacobian_penalty import JacobianPenalty
from training.optimizers import clip, make_optimizer, set_rate, split_for_clipping
from training.results import TrainingTotals
from training.resuming import captured
from training.row_memory import Memory, forget_nonfinite
from training.schedules import Plateau, Schedule
from training.telemetry import Window


class Trainer:
    """Trains a language model: loss → backward → clip → optimizer → step + 1 → learning rate.

    Between two updates come, where they are due, a log line, a checkpoint and a validation, in this order: nothing is
    lost when the process dies in a validation.

    Args:
        model: called as model(tokens, targets, memory, n_layer=…, jacobian_samples=…), giving `nll` (L, B), `memory`
            and `solve`; its embedding is `word_emb`, and `with_settings` gives it other thresholds.
        settings: of the run.
        batches: this process's rows of the training text.
        validation: the validation split's segments, of all rows.
        experiment: where messages and curves go, and in whose folder checkpoints and the best model are kept.
        world: the processes that train together.
        corpus: identity of the vocabulary and the training text, for the checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        batches: TrainingBatches,
        validation: Collection[Segment],
        experiment: Experiment,
        *,
        world: World | None = None,
        corpus: str = "",
    ):
        self.model, self.settings, self.experiment, self.corpus = model, settings, experiment, corpus
        self.world = world or World()
        self.batches, self.validation = batches, validation
        self.step, self.epoch, self.position = settings.start_train_steps, 1, 0
        self.clock = time.perf_counter()  # when the last update was over
        self.schedule = Schedule(
            settings.scheduler, settings.lr, settings.warmup_step, settings.max_step, settings.eta_min
        )
        self.plateau = Plateau(settings.lr, settings.decay_rate, settings.lr_min, settings.patience)
        self.optimizer = make_optimizer(model.parameters(), settings, self.lr)
        self.clipped, self.spared = split_for_clipping(model, clip_embeddings=not settings.clip_nonemb)
        self.penalty = JacobianPenalty.of(settings)
        self.memory = self._no_memory()
        self.window, self.totals, self.bad_steps = Window(), TrainingTotals(), 0
        self.best = BestModel(experiment)
        self.after_shallow: EvaluationReport | None = None
        self.signals = Signals()
        self.validation_pending = False

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def rows(self) -> range:
        """This process's rows of a batch."""
        return self.world.rows(self.settings.batch_size, self.settings.gpu0_bsz)

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.schedule(self.step)

    def _no_memory(self) -> list[Memory | None]:
        return [None] * self.settings.batch_chunk

    def train(self) -> None:
        """Make all updates that are left.

        Raises:
            UserError: too many updates in a row were not finite, and a checkpoint has been written; or memory ran out.
            Stopped: a signal came, and a checkpoint has been written.
        """
        self.model.train()
        self.parallel = self._parallel()
        bar = progress_bar(
            self.settings.max_step, "train", initial=self.step, keep=True, hidden=not self.world.is_first
        )
        with self.signals, bar:
            nothing_to_test = self.step >= self.settings.max_step and self.best.report is None
            if self.validation_pending or nothing_to_test:
                self.validate()
            while self.step < self.settings.max_step:
                self.clock = time.perf_counter()
                for batch in self.batches.from_position(self.position):
                    self._account(batch, *self.update(batch))
                    if bar.update():
                        bar.set_postfix_str(self.window.brief())
                    self._between_updates()
                    if self.step >= self.settings.max_step:
                        break
                    self.clock = time.perf_counter()
                else:
                    self.epoch, self.position, self.memory = self.epoch + 1, 0, self._no_memory()
            _, stop = self.signals.asked(self.world)
            if stop is not None:
                raise Stopped(stop)

    def _parallel(self) -> nn.Module:
        if self.world.size == 1:
            return self.model
        parallel = DistributedDataParallel(self.model)
        parallel.register_comm_hook(None, sum_gradients)  # each process has its share of the loss
        return parallel

    def _between_updates(self) -> None:
        settings, last = self.settings, self.step == self.settings.max_step
        if last or self.step % settings.log_interval == 0:
            self._log()
        self.validation_pending = self._validation_is_due()
        asked, stop = self.signals.asked(self.world)
        if asked or last or self.validation_pending or self.step % settings.steps_between_saves == 0:
            self.save()
        if stop is not None:
            raise Stopped(stop)
        if self.bad_steps >= settings.max_bad_steps:
            self._give_up()
        if self.validation_pending:
            self.validate()

    def _validation_is_due(self) -> bool:
        at_end = self.step == self.settings.max_step
        return at_end or self._shallow_stage_ends() or self.step % self.settings.eval_interval == 0

    def _shallow_stage_ends(self) -> bool:
        return self.step == self.settings.pretrain_steps and self.step > self.settings.start_train_steps

    def _account(self, batch: TrainingSegment, loss: float, norm: float) -> None:
        """Take in an update; its time runs from the end of the one before, all that came between apart."""
        seconds, tokens = time.perf_counter() - self.clock, len(batch.targets) * self.settings.batch_size
        window, sound = self.window, self.bad_steps == 0
        window.seconds += seconds
        if sound:
            window.tokens += tokens
            window.updates += 1
            window.nll += loss * tokens
            window.norms += norm
        else:
            window.skipped += 1
            self.experiment.log(
                f"step {self.step} | update skipped: loss {loss:g}, gradient {norm:g} "
                f"({self.bad_steps} in a row, --max_bad_steps {self.settings.max_bad_steps})"
            )
        self.totals = self.totals.plus(updates=1, seconds=seconds, tokens=tokens, skipped_updates=int(not sound))

    def update(self, batch: TrainingSegment) -> tuple[float, float]:
        """One update on this process's rows of a batch; it is skipped where the loss or the gradient is not finite.

        Returns:
            The loss of the whole batch (mean nll, nats per token, without the Jacobian penalty) and the norm of the
            whole objective's gradient before clipping.

        Raises:
            UserError: memory ran out.
        """
        self.window.lr = self.lr
        more = self.settings.batch_chunk + 1
        with enough_memory(
            f"step {self.step + 1}: the update",
            f"--batch_chunk {more} computes the batch in more parts, to the same end; or lower --tgt_len, --mem_len",
        ):
            self.optimizer.zero_grad(set_to_none=True)
            sums, memory = self._backward(batch)
            norm = clip(self.clipped, self.spared, self.settings.clip)
            # The host waits here, once: an update that is not finite must never reach the weights.
            norm, *sums = torch.stack([norm, *sums]).tolist()
            loss, *penalty = self.world.sum(np.array(sums)).tolist()
            if math.isfinite(loss) and math.isfinite(norm):
                self.optimizer.step()
                self.memory, self.bad_steps = memory, 0
                self.window.penalised += len(penalty)
                self.window.jacobian_loss += sum(penalty)
            else:
                self.memory, self.bad_steps = [forget_nonfinite(part) for part in memory], self.bad_steps + 1
        self.step += 1
        self.position = batch.start + len(batch.tokens)
        set_rate(self.optimizer, self.lr)
        return loss, norm

    def _backward(self, batch: TrainingSegment) -> tuple[list[Tensor], list[Memory]]:
        """Accumulates the gradient of a batch.

        The rows may be computed in chunks one after the other, each weighted by its share of the whole batch's rows
        and with its own memory, so that their sum is the gradient of the undivided batch.

        Returns:
            These rows' shares of the loss and, where the step has it, of the Jacobian penalty; and the memories.
        """
        n_layer = self.settings.shallow_layers(self.step)
        samples = self.penalty.samples_at(self.step) if n_layer is None else 0
        n_chunks, n_rows = self.settings.batch_chunk, self.settings.batch_size
        chunks = zip(batch.tokens.tensor_split(n_chunks, 1), batch.targets.tensor_split(n_chunks, 1), strict=True)
        losses, penalties, memories = [], [], []
        for i, (tokens, targets) in enumerate(chunks):
            with nullcontext() if i == n_chunks - 1 or self.world.size == 1 else self.parallel.no_sync():
                output = self.parallel(tokens, targets, self.memory[i], n_layer=n_layer, jacobian_samples=samples)
                memories.append(output.memory)
                share = tokens.shape[1] / n_rows
                objective = output.nll.mean() * share
                losses.append(objective.detach())
                if samples:
                    penalties.append(output.solve.jacobian_loss.detach() * share)
                    objective = objective + self.penalty.weight_at(self.step) * share * output.solve.jacobian_loss
                objective.backward()
            if output.solve is not None:
                self.window.forward.add(output.solve.forward)
                self.window.backward.add(output.solve.backward)
        return [sum(losses), *([sum(penalties)] if samples else [])], memories

    def _log(self) -> None:
        text = f"epoch {self.epoch} | step {self.step} | {self.window}"
        self.experiment.log(text, routine=True)
        if warning := self.window.warning():
            self.experiment.log(f"step {self.step} | {warning}")
        self.totals = self.totals.plus(failed_backward_solves=self.window.backward.n_failed)
        self.experiment.scalars(self.window.scalars(), self.step)
        self.window = Window()

    def save(self) -> None:
        """Write a checkpoint; all processes take part. Where it cannot be written the run goes on."""
        if self.settings.debug:
            return
        with self.signals.later():
            self.best.write_what_waits()  # first, as the checkpoint tells which file it is
            state = captured(self)
            if state is not None:
                self._write(state)
        self.world.of_first(None)  # whoever ends first takes the others along: not before the file is there

    def _write(self, state: TrainingState) -> None:
        folder = self.experiment.folder
        try:
            state.save(folder)
        except OSError as error:
            self.experiment.log(
                f"warning: step {self.step}: no checkpoint could be written to {folder} ({error.strerror or error}): "
                "the run goes on and tries again at the next save; make room or mend the folder"
            )

    def _give_up(self) -> None:
        self.save()
        raise UserError(
            f"step {self.step}: {self.bad_steps} updates in a row had a loss or a gradient that is not finite and were "
            "skipped: lower --lr, lengthen --warmup_step or raise --f_thres and --b_thres"
        )

    def validate(self) -> EvaluationReport:
        """Validate in the stage of the last update, and keep the model when it is the best of that stage so far."""
        n_layer = self.settings.shallow_layers(self.step - 1)
        with self.signals.at_once():
            report = evaluate(self.model, self.validation, "valid", self.settings, n_layer=n_layer, world=self.world)
        self.experiment.log(f"step {self.step} | {report}")
        self.experiment.scalars(report.scalars(), self.step)
        if n_layer is None and self.world.is_first:
            probe = Probe.of(self.model, next(iter(self.validation)))
            self.experiment.log(f"step {self.step} | {probe}")
            self.experiment.curve("probe/residual", probe.residuals, f"step {self.step:06d}")
        if self._shallow_stage_ends():
            self.after_shallow = report
            self.experiment.log(f"step {self.step} | end of shallow stage: perplexity {report.perplexity:.3f}")
        if self.settings.scheduler == "dev_perf" and self.step >= self.settings.warmup_step:
            self.plateau = self.plateau.after(report.loss)
            self.schedule = replace(self.schedule, lr=self.plateau.lr)
            set_rate(self.optimizer, self.lr)
        with self.signals.later():
            self.best.consider(report, self.model)
        self.validation_pending = False
        if self.step == self.settings.max_step:
            self.save()
        return report

    def restore_best(self) -> EvaluationReport:
        """Put the best model's weights back into the model; the report of its validation."""
        if self.world.is_first:
            self.best.put_back(self.model)
        self.world.copy_from_first(self.model)
        return self.world.of_first(self.best.report)
