"""The training loop: updates, log lines, validations, and the best model so far.

Shapes: L tokens of a segment, B sequences of a batch.
"""

import copy
import math
import time
from collections.abc import Collection, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from utils.checkpoints import load_into, load_state_dict, save_state_dict
from utils.errors import UserError
from utils.evaluation import EvaluationReport, Segment, evaluate
from utils.experiment import WEIGHTS_FILE, Experiment
from utils.jacobian_penalty import JacobianPenalty
from utils.optimization import clip, make_optimizer, set_rate, split_for_clipping
from utils.probe import Probe
from utils.progress import progress_bar
from utils.results import TrainingTotals
from utils.schedule import Plateau, Schedule
from utils.settings import Settings
from utils.training_window import Window


class Trainer:
    """Trains a language model: loss → backward → clip → optimizer → step + 1 → learning rate.

    Args:
        model: called as model(tokens, targets, memory, n_layer=…, jacobian_samples=…), giving `nll` (L, B), `memory`
            and `solve`; its embedding is `word_emb`, and `with_settings` gives it other thresholds.
        settings: of the run.
        batches: an epoch of segments with `tokens` and `targets` (L, B); every iteration is another epoch.
        validation: the validation split's segments.
        experiment: where messages and curves go, and in whose folder the best model is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        batches: Iterable[Segment],
        validation: Collection[Segment],
        experiment: Experiment,
    ):
        self.model, self.settings, self.experiment = model, settings, experiment
        self.batches, self.validation = batches, validation
        self.step, self.epoch = settings.start_train_steps, 1
        self.clock = time.perf_counter()  # when the last update was over
        self.seconds, self.tokens = 0.0, 0  # spent on updates
        self.schedule = Schedule(
            settings.scheduler, settings.lr, settings.warmup_step, settings.max_step, settings.eta_min
        )
        self.plateau = Plateau(settings.lr, settings.decay_rate, settings.lr_min, settings.patience)
        self.optimizer = make_optimizer(model.parameters(), settings, self.lr)
        self.clipped, self.spared = split_for_clipping(model, clip_embeddings=not settings.clip_nonemb)
        self.penalty = JacobianPenalty.of(settings)
        self.memory: list = []
        self.window = Window()
        self.failed_backward = 0
        self.best: EvaluationReport | None = None  # of the stage that the run is in
        self.best_state: dict[str, Tensor] | None = None  # where there is no folder for it
        self.after_shallow: EvaluationReport | None = None

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.schedule(self.step)

    def train(self) -> None:
        """Make all updates, validating at intervals, at the end of the shallow stage and at the end.

        Raises:
            UserError: the loss or the gradient is not finite.
        """
        last = self.settings.max_step
        self.model.train()
        self.clock = time.perf_counter()
        with progress_bar(last, "train", initial=self.step, keep=True) as bar:
            while self.step < last:
                self.memory = [None] * self.settings.batch_chunk
                for batch in self.batches:
                    self._account(batch, *self.update(batch))
                    if bar.update():
                        bar.set_postfix_str(self.window.brief())
                    self._at_intervals()
                    if self.step >= last:
                        return
                    self.clock = time.perf_counter()
                self.epoch += 1

    def _at_intervals(self) -> None:
        settings, last = self.settings, self.step == self.settings.max_step
        if last or self.step % settings.log_interval == 0:
            self._log()
        if last or self._shallow_stage_ends() or self.step % settings.eval_interval == 0:
            self.validate()

    def _shallow_stage_ends(self) -> bool:
        return self.step == self.settings.pretrain_steps and self.step > self.settings.start_train_steps

    def _account(self, batch: Segment, loss: float, norm: float) -> None:
        """Take in an update; its time runs from the end of the one before, validations and log lines apart."""
        seconds, tokens = time.perf_counter() - self.clock, batch.targets.numel()
        self.seconds += seconds
        self.tokens += tokens
        self.window.seconds += seconds
        self.window.tokens += tokens
        self.window.updates += 1
        self.window.nll += loss * tokens
        self.window.norms += norm

    def update(self, batch: Segment) -> tuple[float, float]:
        """One update on a batch of (L, B) tokens and targets.

        Returns:
            The loss (mean nll, nats per token, without the Jacobian penalty) and the norm of the whole objective's
            gradient before clipping.

        Raises:
            UserError: either is not finite; the weights are as they were.
        """
        self.window.lr = self.lr
        self.optimizer.zero_grad(set_to_none=True)
        sums = self._backward(batch)
        norm = clip(self.clipped, self.spared, self.settings.clip)
        # The host waits here, once: an update that is not finite must never reach the weights.
        norm, loss, *penalty = torch.stack([norm, *sums]).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"step {self.step + 1}: the loss is {loss:g} and the norm of its gradient {norm:g}; the weights have "
                "been left as they were: lower --lr, lengthen --warmup_step or raise --f_thres and --b_thres"
            )
        self.optimizer.step()
        self.step += 1
        self.window.penalised += len(penalty)
        self.window.jacobian_loss += sum(penalty)
        set_rate(self.optimizer, self.lr)
        return loss, norm

    def _backward(self, batch: Segment) -> list[Tensor]:
        """Accumulates the gradient of a batch; its loss and, where the step has it, the Jacobian penalty.

        The rows may be computed in chunks one after the other, each weighted by its share of the rows and with
        its own memory, so that their sum is the gradient of the undivided batch.
        """
        n_layer = self.settings.shallow_layers(self.step)
        samples = self.penalty.samples_at(self.step) if n_layer is None else 0
        n_chunks, n_rows = self.settings.batch_chunk, batch.tokens.shape[1]
        chunks = zip(batch.tokens.tensor_split(n_chunks, 1), batch.targets.tensor_split(n_chunks, 1), strict=True)
        losses, penalties = [], []
        for i, (tokens, targets) in enumerate(chunks):
            output = self.model(tokens, targets, self.memory[i], n_layer=n_layer, jacobian_samples=samples)
            self.memory[i] = output.memory
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
        return [sum(losses), sum(penalties)] if samples else [sum(losses)]

    def _log(self) -> None:
        text = f"epoch {self.epoch} | step {self.step} | {self.window}"
        self.experiment.log(text, routine=True)
        if warning := self.window.warning():
            self.experiment.log(f"step {self.step} | {warning}")
        self.failed_backward += self.window.backward.n_failed
        self.experiment.scalars(self.window.scalars(), self.step)
        self.window = Window()

    def validate(self) -> EvaluationReport:
        """Validate in the stage of the last update, and keep the model when it is the best of that stage so far.

        A loss after n_layer applications says nothing about the equilibrium's: with the first validation of the
        equilibrium stage the search for the best model starts again.
        """
        n_layer = self.settings.shallow_layers(self.step - 1)
        report = evaluate(self.model, self.validation, "valid", self.settings, n_layer=n_layer)
        self.experiment.log(f"step {self.step} | {report}")
        self.experiment.scalars(report.scalars(), self.step)
        if n_layer is None:
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
        if self._is_best(report):
            self._keep(report)
        return report

    def _is_best(self, report: EvaluationReport) -> bool:
        best = self.best
        return best is None or best.shallow != report.shallow or math.isnan(best.loss) or report.loss < best.loss

    def _keep(self, report: EvaluationReport) -> None:
        self.best = report
        if self.experiment.folder is None:
            self.best_state = copy.deepcopy(self.model.state_dict())
        else:
            save_state_dict(self.model, self.experiment.folder / WEIGHTS_FILE)

    def totals(self) -> TrainingTotals:
        """What the updates took, validations apart."""
        updates = self.step - self.settings.start_train_steps
        return TrainingTotals(updates, self.tokens, self.seconds, self.failed_backward)

    def restore_best(self) -> EvaluationReport:
        """Put the best model's weights back into the model; the report of its validation."""
        path = WEIGHTS_FILE if self.experiment.folder is None else self.experiment.folder / WEIGHTS_FILE
        load_into(self.model, self.best_state or load_state_dict(path), path)
        return self.best
