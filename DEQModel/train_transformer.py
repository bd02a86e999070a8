"""Train a DEQ-Transformer language model, or evaluate one: `python train_transformer.py --help`."""

if __name__ == "__main__":
    import signal

    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the imports take seconds: Ctrl-C ends them without a traceback

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from data_utils import Corpus, OrderedBatches, VariableLengthBatches
from models.transformers.deq_transformer import DEQTransformerConfig, DEQTransformerLM
from utils.checkpoint_settings import CheckpointSettings, check_settings
from utils.checkpoints import load_into, load_state_dict
from utils.errors import UserError
from utils.evaluation import EVAL_ROWS, evaluate, unigram_perplexity
from utils.experiment import SWEEP_FILE, WEIGHTS_FILE, Experiment
from utils.flag_checks import notes
from utils.flags import PROGRAM, parse
from utils.initialization import initialize
from utils.peak_memory import peak_memory
from utils.progress import LostScreenError, say
from utils.results import RunResults
from utils.settings import Settings
from utils.sweep import models_of, sweep
from utils.sweep_grid import grid
from utils.training import Trainer

INTERRUPTED = 130  # the shell's exit status for Ctrl-C
NOTHING_WRITTEN = "nothing but the cache of the encoded corpus was written to disk (--debug)"
OUT_OF_MEMORY = re.compile("allocate|out of memory|overflow")  # in PyTorch's messages


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for.

    Returns:
        The exit status: 0, 1 for a lost screen, 2 for a mistake of the user, 130 for Ctrl-C.
    """
    try:
        run(parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except LostScreenError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(settings: Settings) -> None:
    """Load the corpus, build the model, then evaluate or train it."""
    remarks = notes(settings, torch.cuda.device_count())
    device = torch.device("cuda" if settings.cuda else "cpu")
    corpus = Corpus.load(settings.data, settings.dataset)
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
        run_sweep(model, settings, evaluated, remarks)
    elif settings.eval:
        for note in remarks:
            say(note)
        for split, segments in evaluated(settings).items():
            say(str(evaluate(model, segments, split, settings, n_layer=settings.eval_layers())))
    else:
        train(model, settings, corpus, evaluated(settings), device, remarks)


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
    torch.manual_seed(settings.seed)
    with enough_memory(settings):
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
    path = Path(settings.restart_dir, WEIGHTS_FILE) if settings.restart_dir else settings.load
    if path:
        state = load_state_dict(path)
        expected = CheckpointSettings(n_token=n_token, **settings.shared_with(CheckpointSettings))
        check_settings(path, state, expected)
        load_into(model, state, path)
    with enough_memory(settings):
        return model.to(device)


@contextmanager
def enough_memory(settings: Settings) -> Iterator[None]:
    """Around the building of a model: names the flags that a model is too large by.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        sizes = ", ".join(f"--{name} {getattr(settings, name)}" for name in ("d_model", "d_inner", "d_embed"))
        raise UserError(f"{sizes}: a model of this size does not fit into the memory; lower them") from error


def train(
    model: DEQTransformerLM,
    settings: Settings,
    corpus: Corpus,
    evaluated: dict[str, OrderedBatches],
    device: torch.device,
    remarks: Sequence[str],
) -> None:
    """Train `model`, test the best of it, and write down both, after the remarks on the settings."""
    batches = training_batches(settings, corpus, device)
    n_token = len(corpus.vocab)
    with Experiment(settings) as experiment:
        experiment.log("\n".join([*remarks, where(experiment)]))
        experiment.log(
            f"{n_token:,} words, {len(corpus.train):,} tokens for training, "
            f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, on {device}"
        )
        unigram = {split: unigram_perplexity(corpus.train, getattr(corpus, split), n_token) for split in evaluated}
        scores = " and ".join(f"perplexity {score:.3f} on {split}" for split, score in unigram.items())
        experiment.log(f"for comparison, a unigram model scores {scores}")
        trainer = Trainer(model, settings, batches, evaluated["valid"], experiment)
        try:
            trainer.train()
        except (KeyboardInterrupt, UserError) as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            saved = "the best model so far is saved" if trainer.best else "no model has been saved yet"
            experiment.log(f"{ended} at step {trainer.step}{', ' + saved if experiment.folder else ''}")
            experiment.log(where(experiment))
            raise
        valid = trainer.restore_best()
        test = evaluate(model, evaluated["test"], "test", settings, n_layer=valid.shallow)
        experiment.log(f"the best model on valid\n{valid}\n{test}")
        experiment.scalars(test.scalars(), trainer.step)
        results = RunResults(unigram, trainer.after_shallow, valid, test, trainer.totals(), peak_memory(device))
        experiment.results(results.as_dict())
        experiment.log(f"\n{results}\n{where(experiment)}")


def training_batches(
    settings: Settings, corpus: Corpus, device: torch.device
) -> OrderedBatches | VariableLengthBatches:
    """The training split in the batches that the settings ask for."""
    given = {
        "device": device,
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
) -> None:
    """Evaluate the grid of --sweep; its table goes to the screen, the log and, whole, to a file of a run folder."""
    points = grid(settings.sweep)
    models = models_of(model, points)
    done = []
    with Experiment(settings) as experiment:
        for note in remarks:
            experiment.log(note)
        for point in sweep(models, points, settings, evaluated, experiment.log):
            done.append(point.as_dict())
            experiment.results({"sweep": settings.sweep, "points": done}, SWEEP_FILE)
        experiment.log(f"all figures: {experiment.folder / SWEEP_FILE}" if experiment.folder else NOTHING_WRITTEN)


def where(experiment: Experiment) -> str:
    """Where a run's files are, and how to look at them."""
    if experiment.folder is None:
        return NOTHING_WRITTEN
    beside = Path(sys.executable).with_name("tensorboard")
    tensorboard = str(beside) if beside.exists() else "tensorboard"
    return f"run folder: {experiment.folder}\ncurves: {shlex.join([tensorboard, '--logdir', str(experiment.folder)])}"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, on_interrupt)
    sys.exit(main())
