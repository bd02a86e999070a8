"""Train a DEQ-Transformer language model, or evaluate one: `python train_transformer.py --help`."""

if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(
            signal.SIGUSR1, lambda number, frame: None
        )  # asks for a checkpoint: outside training there is none
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the imports take seconds: Ctrl-C ends them without a traceback

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from config.checks import notes
from config.flags import PROGRAM, settle, typed
from config.inheritance import changes, completed, inherited, without_places
from config.settings import Settings
from config.sweep_grid import grid
from data.batches import OrderedBatches, VariableLengthBatches
from data.corpus import Corpus
from evaluation.evaluation import EVAL_ROWS, evaluate
from evaluation.sweep import models_of, sweep
from evaluation.unigram import unigram_perplexity
from models.transformers.initialization import initialize
from models.transformers.model import DEQTransformerConfig, DEQTransformerLM
from models.transformers.weights import CheckpointSettings, check_settings
from runs.experiment import SWEEP_FILE, WEIGHTS_FILE, Experiment
from system.checkpoints import load_into, load_state_dict
from system.distributed import World, brief, lost_contact
from system.errors import UserError
from system.launch import launch, leave_with
from system.out_of_memory import enough_memory
from system.peak_memory import peak_memory
from system.progress import LostScreenError, say
from system.signals import Stopped
from training.checkpoint import TrainingState
from training.messages import NOTHING_WRITTEN, how_to_go_on, in_words, introduction, where
from training.results import RunResults
from training.resuming import resume
from training.trainer import Trainer

SIGNALLED = 128  # to which a shell adds a signal's number for an exit status
INTERRUPTED = SIGNALLED + 2
OF_ALL = 10  # seconds: of several processes with the same mistake the first one tells
OF_ANOTHER = 15  # seconds: the process that failed tells first


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for.

    Returns:
        The exit status: 0, 1 for a lost screen, 2 for a mistake of the user, 128 + its number for a signal.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run(argv)
    except UserError as error:
        return explained(f"error: {error}", 2, wait=OF_ALL if is_another() else 0)
    except LostScreenError as error:
        return explained(str(error), 1)
    except Stopped as stopped:
        return explained(str(stopped), stopped.status)
    except KeyboardInterrupt:
        return explained("interrupted", INTERRUPTED)
    except Exception as error:
        if not lost_contact(error):
            raise
        lost = f"another process is gone or hangs; its own message says why ({brief(error)})"
        return explained(lost, 1, wait=OF_ANOTHER)


def is_another() -> bool:
    """Whether this is one of several processes, but not the first, which speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def explained(message: str, status: int, *, wait: float = 0) -> int:
    """Print the line that a program ends with, of a signal for all processes; the exit status.

    Args:
        wait: seconds before that, in which another process has its say; the launcher ends this one then.
    """
    time.sleep(wait)
    if status <= SIGNALLED or not is_another():
        print(f"{PROGRAM}: {message}", file=sys.stderr)
    return status


def run(argv: Sequence[str]) -> int:
    """Settle the settings; then go to work here, or in a process for each of several GPUs."""
    options = typed(argv)
    state, remarks = None, []
    if options.get("restart") and options.get("restart_dir") and not options.get("eval"):
        state, remarks = TrainingState.newest(options["restart_dir"])
        before, told = completed(state.settings, options["restart_dir"])
        remarks += told
    settings = settle(options, state and inherited(before))
    if state:
        remarks += changes(before, settings, state.step)
    n_gpus = torch.cuda.device_count()
    if settings.multi_gpu and settings.cuda and n_gpus > 1 and "WORLD_SIZE" not in os.environ:
        Corpus.load(settings.data, settings.dataset)  # encoded once, and what is wrong with it is said once
        return launch(main, argv, n_gpus)
    world = World.join(cuda=settings.cuda)
    work(settings, state, [*remarks, *notes(settings, n_gpus, world.size)], world)
    world.leave()  # not after an error: it would wait for the others
    return 0


def work(settings: Settings, state: TrainingState | None, remarks: Sequence[str], world: World) -> None:
    """Load the corpus, build the model, then evaluate or train it."""
    device = world.device(settings.cuda)
    corpus = Corpus.load(settings.data, settings.dataset)
    check_corpus(settings, state, corpus)
    world.see_agreement({**without_places(settings), "corpus": corpus.checksum, "step": state.step if state else 0})
    model = make_model(settings, len(corpus.vocab), device)

    def evaluated(settings: Settings) -> dict[str, OrderedBatches]:
        return {
            split: OrderedBatches(
                getattr(corpus, split),
                EVAL_ROWS,
                settings.eval_tgt_len,
                device=device,
                text=text_file(settings, split),
                remedy=f"evaluation reads in {EVAL_ROWS} rows, use a longer text",
            )
            for split in ("valid", "test")
        }

    if settings.sweep:
        run_sweep(model, settings, evaluated, remarks, world)
    elif settings.eval:
        report = say if world.is_first else lambda text: None
        for note in remarks:
            report(note)
        for split, segments in evaluated(settings).items():
            report(str(evaluate(model, segments, split, settings, n_layer=settings.eval_layers(), world=world)))
    else:
        train(model, settings, state, corpus, evaluated(settings), device, remarks, world)


def check_corpus(settings: Settings, state: TrainingState | None, corpus: Corpus) -> None:
    """Compare the corpus with that of the run which goes on, or whose model is evaluated.

    Raises:
        UserError: the words have other numbers, or the text to go on with is another.
    """
    if not settings.restart_dir:
        return
    known = state.corpus if state else TrainingState.corpus_of(settings.restart_dir)
    if known is None or known == corpus.checksum:
        return
    words, _, _ = known.partition("-")
    if state or not corpus.checksum.startswith(words):
        raise UserError(
            f"--data {settings.data} with --dataset {settings.dataset} is not what the run in {settings.restart_dir} "
            "was trained on: its words or its training text are others; pass the same texts, or start a new run"
        )


def text_file(settings: Settings, split: str) -> str:
    """The text of a split."""
    return str(Path(settings.data, f"{split}.txt"))


def make_model(settings: Settings, n_token: int, device: torch.device) -> DEQTransformerLM:
    """A model initialised from the seed, or with the weights of a file where the settings name one.

    Raises:
        UserError: the settings make no model; the file cannot be used or does not match them.
    """
    config = DEQTransformerConfig(
        n_token=n_token, tied=not settings.not_tied, **settings.shared_with(DEQTransformerConfig)
    )
    sizes = ", ".join(f"--{name} {getattr(settings, name)}" for name in ("d_model", "d_inner", "d_embed"))
    with enough_memory(f"{sizes}: a model of this size", "lower them"):
        torch.manual_seed(settings.seed)
        model = DEQTransformerLM(config)
        initialize(
            model,
            init=settings.init,
            init_range=settings.init_range,
            init_std=settings.init_std,
            proj_init_std=settings.proj_init_std,
            emb_init=settings.emb_init,
            emb_init_range=settings.emb_init_range,
        )
        model.to(device)
    of_run = settings.eval and settings.restart_dir
    path = Path(settings.restart_dir, WEIGHTS_FILE) if of_run else settings.load
    if path:
        state = load_state_dict(path)
        expected = CheckpointSettings(n_token=n_token, **settings.shared_with(CheckpointSettings))
        check_settings(path, state, expected)
        load_into(model, state, path)
    return model


def train(
    model: DEQTransformerLM,
    settings: Settings,
    state: TrainingState | None,
    corpus: Corpus,
    evaluated: dict[str, OrderedBatches],
    device: torch.device,
    remarks: Sequence[str],
    world: World,
) -> None:
    """Train `model`, test the best of it, and write down both, after the remarks on the settings."""
    if world.size > 1:
        model = model.with_settings(batch_sum=world.sum)  # solves stop as they would in one process
        torch.manual_seed(settings.seed + world.rank)  # each process has its own dropout
    batches = training_batches(settings, corpus, device, world)
    n_token = len(corpus.vocab)
    with open_experiment(settings, state, world) as experiment:
        experiment.log("\n".join([*remarks, where(experiment)]))
        trainer = Trainer(model, settings, batches, evaluated["valid"], experiment, world=world, corpus=corpus.checksum)
        unigram = {}
        if world.is_first:
            unigram = {split: unigram_perplexity(corpus.train, getattr(corpus, split), n_token) for split in evaluated}
        if state:
            resume(trainer, state)
            experiment.log(f"resumed at step {trainer.step}, epoch {trainer.epoch}{in_words(world)}")
        else:
            experiment.log(introduction(trainer, len(corpus.vocab), len(corpus.train), unigram))
        try:
            trainer.train()
        except (Stopped, UserError) as error:
            experiment.log(f"{error} at step {trainer.step}" if isinstance(error, Stopped) else str(error))
            experiment.log(how_to_go_on(experiment))
            raise
        valid = trainer.restore_best()
        test = evaluate(model, evaluated["test"], "test", settings, n_layer=valid.shallow, world=world)
        experiment.log(f"the best model on valid\n{valid}\n{test}")
        experiment.scalars(test.scalars(), trainer.step)
        results = RunResults(unigram, trainer.after_shallow, valid, test, trainer.totals, peak_memory(trainer.device))
        experiment.results(results.as_dict())
        if world.is_first:
            experiment.log(f"\n{results}\n{where(experiment)}")
        trainer.best.see_that_it_is_written()


def open_experiment(settings: Settings, state: TrainingState | None, world: World) -> Experiment:
    """A new run's record, or that of the run which goes on."""
    if state is None:
        return Experiment(settings, silent=not world.is_first)
    folder = Path(settings.restart_dir)
    return Experiment(settings, folder=folder, log_end=state.log_end, step=state.step, silent=not world.is_first)


def training_batches(
    settings: Settings, corpus: Corpus, device: torch.device, world: World
) -> OrderedBatches | VariableLengthBatches:
    """This process's rows of the training split, in the batches that the settings ask for.

    Raises:
        UserError: the text is too short, or a process has fewer rows than chunks.
    """
    rows = [world.rows(settings.batch_size, settings.gpu0_bsz, rank) for rank in range(world.size)]
    if (fewest := min(map(len, rows))) < settings.batch_chunk:
        raise UserError(
            f"--batch_chunk {settings.batch_chunk} is more than the {fewest} sequences of one of the {world.size} "
            "processes: a chunk needs at least one sequence"
        )
    given = {
        "device": device,
        "rows": rows[world.rank],
        "text": text_file(settings, "train"),
        "remedy": f"pass a smaller --batch_size than {settings.batch_size} or use a longer text",
    }
    if settings.varlen:
        rng = np.random.RandomState(settings.seed)
        return VariableLengthBatches(corpus.train, settings.batch_size, settings.tgt_len, rng, **given)
    return OrderedBatches(corpus.train, settings.batch_size, settings.tgt_len, **given)


def run_sweep(
    model: DEQTransformerLM,
    settings: Settings,
    evaluated: Callable[[Settings], dict[str, OrderedBatches]],
    remarks: Sequence[str],
    world: World,
) -> None:
    """Evaluate the grid of --sweep; its table goes to the screen, the log and, whole, to a file of a run folder."""
    points = grid(settings.sweep)
    models = models_of(model, points)
    done = []
    with Experiment(settings, silent=not world.is_first) as experiment:
        for note in remarks:
            experiment.log(note)
        for point in sweep(models, points, settings, evaluated, experiment.log, world=world):
            done.append(point.as_dict())
            experiment.results({"sweep": settings.sweep, "points": done}, SWEEP_FILE)
        experiment.log(f"all figures: {experiment.folder / SWEEP_FILE}" if experiment.folder else NOTHING_WRITTEN)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, on_interrupt)
    if "WORLD_SIZE" in os.environ:
        leave_with(main, sys.argv[1:])
    sys.exit(main())
