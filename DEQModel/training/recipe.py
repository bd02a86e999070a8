"""The recipe of all programs that train a language model: settle settings, load the corpus, build, train, test."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from config.checks import notes
from config.depth import depth_of, evaluation_depth
from config.flags import CommandLine
from config.inheritance import without_places
from config.settings import Settings
from config.words import mistakes_in_flags
from costs.report import cost_report
from data.batches import OrderedBatches
from data.corpus import Corpus
from evaluation.evaluation import EVAL_ROWS, evaluate, is_under
from evaluation.report import EvaluationReport
from evaluation.sweep import sweep
from evaluation.trained_model import make_model
from evaluation.unigram import unigram_loss
from models.protocol import LanguageModel, ModelSpec
from runs.experiment import SWEEP_FILE
from runs.saved_model import ModelDescription
from system.distributed import World
from system.errors import UserError
from system.launch import launch
from system.peak_memory import peak_memory
from system.progress import say
from system.script import with_status
from system.signals import Stopped
from system.tensor_files import archive_signature
from training.architecture import chosen
from training.messages import NOTHING_WRITTEN, how_to_go_on, introduction, number_of_processes, where
from training.preparation import HELD_OUT, check_corpus, held_out_batches, training_batches
from training.record import open_record, see_that_all_is_written
from training.results import RunResults
from training.sample import sample
from training.settled import Settled, settled
from training.trainer import Trainer


def program(spec: ModelSpec, *others: ModelSpec) -> Callable[..., int]:
    """The `main` of a script that trains and evaluates a model; it can be sent to other processes.

    Args:
        spec: the model, whose program it is.
        others: that --arch may name in its place; all of them have this setting, their name its default.
    """
    command, *further = (CommandLine(spec.program, one) for one in (spec, *others))
    return partial(main, command, others=further)


def main(command: CommandLine, argv: Sequence[str] | None = None, *, others: Sequence[CommandLine] = ()) -> int:
    """Do what a command line asks for.

    Args:
        command: the program's.
        argv: the arguments; None for those of this process.
        others: of the program's other models.

    Returns:
        The exit status: 0, 1 for a lost screen, 2 for a mistake of the user, 128 + its number for a signal.
    """
    called = partial(run, [command, *others])
    return with_status(called, sys.argv[1:] if argv is None else argv, command.program)


def run(commands: Sequence[CommandLine], argv: Sequence[str]) -> int:
    """Settle model and settings; then tell what they cost, or go to work here, or in a process for each GPU."""
    command = chosen(commands, argv)
    call = settled(command, argv)
    settings = call.settings
    if settings.cost:
        say(cost_report(command, settings))
        return 0
    n_gpus = torch.cuda.device_count()
    if settings.multi_gpu and settings.cuda and n_gpus > 1 and "WORLD_SIZE" not in os.environ:
        Corpus.load(settings.data, settings.dataset)  # encoded once, and what is wrong with it is said once
        return launch(partial(main, command), argv, n_gpus)
    world = World.join(cuda=settings.cuda)
    call = dataclasses.replace(call, remarks=[*call.remarks, *notes(settings, n_gpus, world.size)])
    Work.prepared(command, call, world).do()
    world.leave()  # not after an error: it would wait for the others
    return 0


@dataclass(frozen=True)
class Work:
    """What a call does, once its settings are settled: evaluate, sweep, or train.

    Attributes:
        command: the program's command line.
        call: its settings, and the run or the model that they are about.
        world: the processes that do it together.
        device: of this one.
        corpus: that the settings name.
        model: initialised from the seed, or with the weights of a file where the settings name one.
    """

    command: CommandLine
    call: Settled
    world: World
    device: torch.device
    corpus: Corpus
    model: LanguageModel

    @property
    def settings(self) -> Settings:
        """Of the call."""
        return self.call.settings

    @classmethod
    def prepared(cls, command: CommandLine, call: Settled, world: World) -> Work:
        """Load the corpus and build the model.

        Raises:
            UserError: the corpus cannot be read or is another than the run's; the processes differ; the settings make
                no model; its file cannot be used.
        """
        settings, checkpoint = call.settings, call.checkpoint
        device = world.device(settings.cuda)
        corpus = Corpus.load(settings.data, settings.dataset)
        call = dataclasses.replace(call, remarks=[*call.remarks, *check_corpus(settings, checkpoint, corpus)])
        if call.description:
            source = f"--data {settings.data} with --dataset {settings.dataset}"
            call.description.see_that_it_is_of(corpus.vocab, call.weights, source)
        file = checkpoint.signature if checkpoint else None
        step = checkpoint.step if checkpoint else 0
        world.see_agreement({**without_places(settings), "corpus": corpus.checksum, "step": step, "checkpoint": file})
        model = make_model(command, settings, len(corpus.vocab), device, call.weights)
        return cls(command, call, world, device, corpus, model)

    def do(self) -> None:
        """Do what the settings ask for."""
        if self.settings.sweep:
            self.sweep()
        elif self.settings.eval:
            self.evaluate()
        else:
            self.train()

    def evaluate(self) -> None:
        """Tell how likely the model finds valid and test, and write it into a folder of its own."""
        settings, depth, reports = self.settings, evaluation_depth(self.settings), {}
        with open_record(self.command, self.call, self.world, self.device) as experiment:
            experiment.log("\n".join([*self.call.remarks, self.command.model_in_words(settings)]))
            for split, segments in self._held_out(settings).items():
                reports[split] = evaluate(self.model, segments, split, settings, depth, world=self.world)
                experiment.log(str(reports[split]))
            content = {split: report.as_dict() for split, report in reports.items()}
            experiment.results(
                {**content, "file": str(self.call.weights), "weights": archive_signature(self.call.weights)}
            )
            if experiment.folder:
                experiment.log(f"run folder: {experiment.folder}")
            see_that_all_is_written(experiment, self.world, "repeat the evaluation")

    def sweep(self) -> None:
        """Evaluate the grid of --sweep; its table goes to the screen, the log and, whole, to a file of a run folder."""
        settings, command, n_token = self.settings, self.command, len(self.corpus.vocab)

        def configured(changed: Settings) -> LanguageModel:
            return self.model.with_config(command.spec.configure(changed, n_token))

        grid = command.points(settings)
        points = {tuple(point.items()): command.at(settings, point) for point in grid}
        with mistakes_in_flags(command.flag_names):
            for changed in points.values():
                configured(changed)
        done = []
        with open_record(command, self.call, self.world, self.device) as experiment:
            fixed = f"{command.evaluation_in_words(settings, but=grid[0])}, {EVAL_ROWS} rows"
            experiment.log("\n".join([*self.call.remarks, command.model_in_words(settings, but=grid[0]), fixed]))
            for point in sweep(configured, points, self._held_out, experiment.log, world=self.world):
                done.append(point.as_dict())
                experiment.results({"sweep": settings.sweep, "points": done}, SWEEP_FILE)
            experiment.log(f"all figures: {experiment.folder / SWEEP_FILE}" if experiment.folder else NOTHING_WRITTEN)
            see_that_all_is_written(experiment, self.world, "repeat the sweep")

    def train(self) -> None:
        """Train the model, test the best of it, and write down both, after the remarks on the settings."""
        settings, world, checkpoint = self.settings, self.world, self.call.checkpoint
        if world.size > 1:
            torch.manual_seed(settings.seed + world.rank)  # each process has its own dropout
        batches = training_batches(settings, self.corpus, self.device, world)
        held_out = self._held_out(settings)
        with open_record(self.command, self.call, self.world, self.device) as experiment:
            experiment.vocabulary(self.corpus.vocab)
            experiment.log("\n".join([*self.call.remarks, where(experiment)]))
            trainer = Trainer(
                self.model,
                settings,
                batches,
                held_out["valid"],
                experiment,
                world=world,
                corpus=self.corpus.checksum,
                describe=partial(ModelDescription.of, self.command.spec.name, settings, self.corpus.vocab),
            )
            unigram = self._unigram() if world.is_first else {}
            if checkpoint:
                trainer.resume(checkpoint)
                step, epoch = trainer.progress.step, trainer.progress.epoch
                experiment.log(f"resumed at step {step}, epoch {epoch}{number_of_processes(world)}")
            else:
                experiment.log(introduction(trainer, len(self.corpus.vocab), len(self.corpus.train), unigram))
            experiment.discard_results()
            try:
                trainer.train()
                self._finish(trainer, held_out, unigram)
            except (Stopped, UserError) as error:
                if isinstance(error, Stopped):
                    experiment.log(f"{error} at step {trainer.progress.step}")
                experiment.log(how_to_go_on(experiment, self.command, settings))
                raise

    def _finish(self, trainer: Trainer, held_out: Mapping[str, OrderedBatches], unigram: Mapping[str, float]) -> None:
        """Test the best model; the results are the last thing that is written.

        Raises:
            UserError: something could not be written.
        """
        experiment = trainer.experiment
        valid = trainer.restore_best()
        found_so = (
            trainer.best.is_of_now()
            and is_under(valid, self.settings, self.model.memory_length)
            and not self._has_other_texts()
        )
        if not self.world.of_first(found_so):
            experiment.log("the best model was found under other settings or on other texts: it is validated again")
            valid = self._evaluated(held_out, "valid", valid.shallow)
        trainer.best.renew(valid)
        test = self._evaluated(held_out, "test", valid.shallow)
        experiment.log(f"the best model on valid\n{self.command.model_in_words(self.settings)}\n{valid}\n{test}")
        experiment.scalars(test.scalars(), trainer.progress.step)
        results = RunResults(
            unigram,
            trainer.shallow_stage.report,
            valid,
            test,
            trainer.telemetry.totals,
            peak_memory(trainer.device),
            trainer.best.signature,
        )
        if self.world.is_first:
            experiment.log(f"\n{results}\n{where(experiment)}")
        resumes = trainer.checkpoints.step is not None
        remedy = "finish the run with --restart" if self.world.of_first(resumes) else "start the run again"
        see_that_all_is_written(experiment, self.world, remedy, further=trainer.unwritten())
        experiment.results(results.as_dict())
        see_that_all_is_written(experiment, self.world, remedy)
        if self.settings.sample and self.world.is_first:
            text = sample(self.command, self.model, self.corpus.vocab, self.settings, valid.shallow)
            experiment.log(f"\n{text}")
        see_that_all_is_written(experiment, self.world, remedy)

    def _has_other_texts(self) -> bool:
        """Whether the run goes on with other texts than it had."""
        checkpoint, now = self.call.checkpoint, self.corpus.checksum
        return checkpoint is not None and checkpoint.corpus not in (now, now.rpartition("-")[0].rpartition("-")[0])

    def _evaluated(self, held_out: Mapping[str, OrderedBatches], split: str, shallow: int | None) -> EvaluationReport:
        """The model on a split, as deep as it was trained for."""
        depth = depth_of(self.settings, shallow)
        return evaluate(self.model, held_out[split], split, self.settings, depth, world=self.world)

    def _unigram(self) -> Mapping[str, float]:
        corpus = self.corpus
        return {split: unigram_loss(corpus.train, getattr(corpus, split), len(corpus.vocab)) for split in HELD_OUT}

    def _held_out(self, settings: Settings) -> dict[str, OrderedBatches]:
        return held_out_batches(settings, self.corpus, self.device)
