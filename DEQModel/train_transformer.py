"""Train a DEQ-Transformer language model, or evaluate one: `python train_transformer.py --help`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data_utils import Corpus, OrderedBatches, VariableLengthBatches
from models.transformers.deq_transformer import DEQTransformerConfig, DEQTransformerLM
from utils.checkpoints import CheckpointSettings, check_settings, load_into, load_state_dict
from utils.errors import UserError
from utils.evaluation import EVAL_ROWS, evaluate, unigram_perplexity
from utils.experiment import WEIGHTS_FILE, Experiment
from utils.flag_checks import notes
from utils.flags import PROGRAM, parse
from utils.initialization import initialize
from utils.peak_memory import peak_memory
from utils.progress import say
from utils.results import RunResults
from utils.settings import Settings
from utils.training import Trainer

INTERRUPTED = 130  # the shell's exit status for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks for; the exit status: 0, 2 for a mistake of the user, 130 for Ctrl-C."""
    try:
        run(parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(settings: Settings) -> None:
    """Load the corpus, build the model, then evaluate or train it."""
    for note in notes(settings, torch.cuda.device_count()):
        say(note)
    device = torch.device("cuda" if settings.cuda else "cpu")
    corpus = Corpus.load(settings.data, settings.dataset)
    model = make_model(settings, len(corpus.vocab), device)
    batches = {
        split: OrderedBatches(getattr(corpus, split), EVAL_ROWS, settings.eval_tgt_len, device=device)
        for split in ("valid", "test")
    }
    if settings.eval:
        for split, segments in batches.items():
            say(str(evaluate(model, segments, split, settings, n_layer=settings.eval_layers())))
    else:
        train(model, settings, corpus, batches, device)


def make_model(settings: Settings, n_token: int, device: torch.device) -> DEQTransformerLM:
    """A model initialised from the seed, or with the weights of a file where the settings name one.

    Raises:
        UserError: the settings make no model; the file cannot be used or does not match them.
    """
    config = DEQTransformerConfig(
        n_token=n_token, tied=not settings.not_tied, **settings.shared_with(DEQTransformerConfig)
    )
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
    path = Path(settings.restart_dir, WEIGHTS_FILE) if settings.restart_dir else settings.load
    if path:
        state = load_state_dict(path)
        expected = CheckpointSettings(n_token=n_token, **settings.shared_with(CheckpointSettings))
        check_settings(path, state, expected)
        load_into(model, state, path)
    return model.to(device)


def train(
    model: DEQTransformerLM,
    settings: Settings,
    corpus: Corpus,
    evaluated: dict[str, OrderedBatches],
    device: torch.device,
) -> None:
    """Train `model`, test the best of it, and write down both."""
    if settings.varlen:
        rng = np.random.RandomState(settings.seed)
        batches = VariableLengthBatches(corpus.train, settings.batch_size, settings.tgt_len, rng, device=device)
    else:
        batches = OrderedBatches(corpus.train, settings.batch_size, settings.tgt_len, device=device)
    n_token = len(corpus.vocab)
    with Experiment(settings) as experiment:
        experiment.log(where(experiment))
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
        except KeyboardInterrupt:
            experiment.log(f"interrupted at step {trainer.step} | {where(experiment)}")
            raise
        valid = trainer.restore_best()
        test = evaluate(model, evaluated["test"], "test", settings, n_layer=valid.shallow)
        experiment.log(f"the best model on valid\n{valid}\n{test}")
        experiment.scalars(test.scalars(), trainer.step)
        results = RunResults(unigram, trainer.after_shallow, valid, test, trainer.totals(), peak_memory(device))
        experiment.results(results.as_dict())
        experiment.log(f"\n{results}\n{where(experiment)}")


def where(experiment: Experiment) -> str:
    """Where a run's files are, and how to look at them."""
    if experiment.folder is None:
        return "nothing was written to disk (--debug)"
    beside = Path(sys.executable).with_name("tensorboard")
    tensorboard = str(beside) if beside.exists() else "tensorboard"
    return f"run folder: {experiment.folder}\ncurves: {shlex.join([tensorboard, '--logdir', str(experiment.folder)])}"


if __name__ == "__main__":
    sys.exit(main())
