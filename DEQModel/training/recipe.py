"""The recipe of all programs that train a language model: settle settings, load the corpus, build, train, test."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from config.checks import notes
from config.depth import equilibrium, evaluation_depth
from config.flags import CommandLine
from config.inheritance import changes, completed, inherited, without_places
from config.settings import Settings
from config.sweep_grid import grid
from config.words import mistakes_in_flags
from data.batches import OrderedBatches
from data.corpus import Corpus
from evaluation.evaluation import evaluate
from evaluation.report import EvaluationReport
from evaluation.sweep import sweep
from evaluation.unigram import unigram_perplexity
from models.protocol import LanguageModel, ModelSpec
from modules.depth import Applications
from runs.experiment import SWEEP_FILE, Experiment
from system.distributed import World
from system.errors import UserError
from system.launch import launch
from system.peak_memory import peak_memory
from system.progress import say
from system.script import with_status
from system.signals import Stopped
from training.checkpoint import Checkpoint
from training.messages import NOTHING_WRITTEN, how_to_go_on, introduction, number_of_processes, where
from training.preparation import HELD_OUT, check_corpus, held_out_batches, make_model, training_batches
from training.results import RunResults
from training.trainer import ENTRIES, Trainer

REMEDY = "finish the run with --restart"


def program(name: str, spec: ModelSpec) -> Callable[..., int]:
    """The `main` of a script that trains and evaluates a model; it can be sent to other processes.

    Args:
        name: of the script, as users call it.
        spec: the model.
    """
    return partial(main, CommandLine(name, spec))


def main(command: CommandLine, argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for.

    Args:
        command: the program's.
        argv: the arguments; None for those of this process.

    Returns:
        The exit status: 0, 1 for a lost screen, 2 for a mistake of the user, 128 + its number for a signal.
    """
    return with_status(partial(run, command), sys.argv[1:] if argv is None else argv, command.program)


def run(command: CommandLine, argv: Sequence[str]) -> int:
    """Settle the settings; then go to work here, or in a process for each of several GPUs."""
    settings, checkpoint, remarks = _settled(command, argv)
    n_gpus = torch.cuda.device_count()
    if settings.multi_gpu and settings.cuda and n_gpus > 1 and "WORLD_SIZE" not in os.environ:
        Corpus.load(settings.data, settings.dataset)  # encoded once, and what is wrong with it is said once
        return launch(partial(main, command), argv, n_gpus)
    world = World.join(cuda=settings.cuda)
    Work.prepared(command, settings, checkpoint, [*remarks, *notes(settings, n_gpus, world.size)], world).do()
    world.leave()  # not after an error: it would wait for the others
    return 0


def _settled(command: CommandLine, argv: Sequence[str]) -> tuple[Settings, Checkpoint | None, list[str]]:
    """The settings of a command line, completed by those of the run that goes on; its checkpoint; remarks on both."""
    given = command.given(argv)
    if not (given.get("restart") and given.get("restart_dir")) or given.get("eval"):
        return command.resolved(given), None, []
    folder = given["restart_dir"]
    checkpoint, remarks = Checkpoint.newest(folder, ENTRIES)
    before, defaulted = completed(checkpoint.settings, command.flags, command.defaults, folder)
    settings = command.resolved(given, inherited(before, command.flags))
    remarks = [*remarks, *defaulted, *changes(before, settings, checkpoint.step)]
    return settings, dataclasses.replace(checkpoint, settings=before), remarks


@dataclass(frozen=True)
class Work:
    """What a call does, once its settings are settled: evaluate, sweep, or train.

    Attributes:
        command: the program's command line.
        settings: of the run.
        checkpoint: of the run that goes on, None for a new one.
        remarks: on the settings.
        world: the processes that do it together.
        device: of this one.
        corpus: that the settings name.
        model: initialised from the seed, or with the weights of a file where the settings name one.
    """

    command: CommandLine
    settings: Settings
    checkpoint: Checkpoint | None
    remarks: Sequence[str]
    world: World
    device: torch.device
    corpus: Corpus
    model: LanguageModel

    @classmethod
    def prepared(
        cls,
        command: CommandLine,
        settings: Settings,
        checkpoint: Checkpoint | None,
        remarks: Sequence[str],
        world: World,
    ) -> Work:
        """Load the corpus and build the model.

        Raises:
            UserError: the corpus cannot be read or is another than the run's; the processes differ; the settings make
                no model; its file cannot be used.
        """
        device = world.device(settings.cuda)
        corpus = Corpus.load(settings.data, settings.dataset)
        remarks = [*remarks, *check_corpus(settings, checkpoint, corpus)]
        file = checkpoint.signature if checkpoint else None
        step = checkpoint.step if checkpoint else 0
        world.see_agreement({**without_places(settings), "corpus": corpus.checksum, "step": step, "checkpoint": file})
        model = make_model(command, settings, len(corpus.vocab), device)
        return cls(command, settings, checkpoint, remarks, world, device, corpus, model)

    def do(self) -> None:
        """Do what the settings ask for."""
        if self.settings.sweep:
            self.sweep()
        elif self.settings.eval:
            self.evaluate()
        else:
            self.train()

    def evaluate(self) -> None:
        """Tell the perplexities on valid and test."""
        report = say if self.world.is_first else lambda text: None
        for remark in self.remarks:
            report(remark)
        depth = evaluation_depth(self.settings)
        for split, segments in self._held_out(self.settings).items():
            report(str(evaluate(self.model, segments, split, self.settings, depth, world=self.world)))

    def sweep(self) -> None:
        """Evaluate the grid of --sweep; its table goes to the screen, the log and, whole, to a file of a run folder."""
        settings, spec, n_token = self.settings, self.command.spec, len(self.corpus.vocab)

        def configured(changed: Settings) -> LanguageModel:
            return self.model.with_config(spec.configure(changed, n_token))

        points = grid(settings.sweep, self.command.flags, self.command.defaults)
        with mistakes_in_flags(self.command.flag_names):
            for point in points:
                configured(dataclasses.replace(settings, **point))
        done = []
        with Experiment(settings, silent=not self.world.is_first) as experiment:
            for remark in self.remarks:
                experiment.log(remark)
            for point in sweep(configured, points, settings, self._held_out, experiment.log, world=self.world):
                done.append(point.as_dict())
                experiment.results({"sweep": settings.sweep, "points": done}, SWEEP_FILE)
            experiment.log(f"all figures: {experiment.folder / SWEEP_FILE}" if experiment.folder else NOTHING_WRITTEN)
            see_that_all_is_written(experiment, self.world, "repeat the sweep")

    def train(self) -> None:
        """Train the model, test the best of it, and write down both, after the remarks on the settings."""
        settings, world, checkpoint = self.settings, self.world, self.checkpoint
        if world.size > 1:
            torch.manual_seed(settings.seed + world.rank)  # each process has its own dropout
        batches = training_batches(settings, self.corpus, self.device, world)
        held_out = self._held_out(settings)
        with open_experiment(settings, checkpoint, world) as experiment:
            experiment.log("\n".join([*self.remarks, where(experiment)]))
            trainer = Trainer(
                self.model, settings, batches, held_out["valid"], experiment, world=world, corpus=self.corpus.checksum
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
                self._finish(trainer, held_out["test"], unigram)
            except (Stopped, UserError) as error:
                stopped = isinstance(error, Stopped)
                experiment.log(f"{error} at step {trainer.progress.step}" if stopped else str(error))
                experiment.log(how_to_go_on(experiment, self.command.program))
                raise

    def _finish(self, trainer: Trainer, test_segments: OrderedBatches, unigram: Mapping[str, float]) -> None:
        """Test the best model; the results are the last thing that is written.

        Raises:
            UserError: something could not be written.
        """
        experiment = trainer.experiment
        valid = trainer.restore_best()
        test = self._tested(test_segments, valid)
        experiment.log(f"the best model on valid\n{valid}\n{test}")
        experiment.scalars(test.scalars(), trainer.progress.step)
        results = RunResults(
            unigram,
            trainer.shallow_stage.report,
            valid,
            test,
            trainer.telemetry.totals,
            peak_memory(trainer.device),
        )
        if self.world.is_first:
            experiment.log(f"\n{results}\n{where(experiment)}")
        see_that_all_is_written(experiment, self.world, REMEDY, further=trainer.unwritten())
        experiment.results(results.as_dict())
        see_that_all_is_written(experiment, self.world, REMEDY)

    def _tested(self, segments: OrderedBatches, valid: EvaluationReport) -> EvaluationReport:
        """The model on test, as deep as it was on valid."""
        depth = equilibrium(self.settings) if valid.shallow is None else Applications(valid.shallow)
        return evaluate(self.model, segments, "test", self.settings, depth, world=self.world)

    def _unigram(self) -> Mapping[str, float]:
        corpus = self.corpus
        return {
            split: unigram_perplexity(corpus.train, getattr(corpus, split), len(corpus.vocab)) for split in HELD_OUT
        }

    def _held_out(self, settings: Settings) -> dict[str, OrderedBatches]:
        return held_out_batches(settings, self.corpus, self.device)


def open_experiment(settings: Settings, checkpoint: Checkpoint | None, world: World) -> Experiment:
    """A new run's record, or that of the run which goes on."""
    silent = not world.is_first
    if checkpoint is None:
        return Experiment(settings, silent=silent)
    return Experiment(
        settings,
        folder=Path(settings.restart_dir),
        log_end=checkpoint.log_end,
        before_cut=checkpoint.see_that_it_is_still_there,
        step=checkpoint.step,
        silent=silent,
    )


def see_that_all_is_written(
    experiment: Experiment, world: World, remedy: str, *, further: Mapping[str, str] | None = None
) -> None:
    """Try once more to write what of a run's record could not be written.

    Args:
        experiment: the record.
        world: the processes, all of which take part.
        remedy: the end of the message.
        further: more files of the run that could not be written, and why.

    Raises:
        UserError: some files are missing all the same.
    """
    missing = {**experiment.unwritten(), **(further or {})}
    files = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
    if text := world.of_first(files and f"{experiment.folder}: {files} could not be written, nor at a second try"):
        raise UserError(f"{text}: make room or mend the folder, then {remedy}")
