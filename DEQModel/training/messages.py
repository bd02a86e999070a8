"""What a training run says about itself, beside its figures."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from runs.experiment import Experiment
from system.distributed import World
from training.checkpoint import CHECKPOINT_FILE
from training.trainer import Trainer

NOTHING_WRITTEN = "nothing but the cache of the encoded corpus was written to disk (--debug)"


def introduction(trainer: Trainer, n_words: int, n_tokens: int, unigram: Mapping[str, float]) -> str:
    """What is going to be trained, on how many tokens, and what there is to beat: perplexities by split."""
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    scores = " and ".join(f"perplexity {score:.3f} on {split}" for split, score in unigram.items())
    return (
        f"{n_words:,} words, {n_tokens:,} tokens for training, {size:,} parameters, on "
        f"{trainer.device}{number_of_processes(trainer.world)}\nfor comparison, a unigram model scores {scores}"
    )


def number_of_processes(world: World) -> str:
    """How many processes there are, where there are several."""
    return f" in {world.size} processes" if world.size > 1 else ""


def how_to_go_on(experiment: Experiment, program: str) -> str:
    """The flags that resume a run, once it has a checkpoint."""
    if experiment.folder is None or not (experiment.folder / CHECKPOINT_FILE).exists():
        return "no checkpoint has been written"
    return f"to go on: {program} --restart --restart_dir {shlex.quote(str(experiment.folder))}"


def where(experiment: Experiment) -> str:
    """Where a run's files are, and how to look at them."""
    if experiment.folder is None:
        return NOTHING_WRITTEN
    beside = Path(sys.executable).with_name("tensorboard")
    tensorboard = str(beside) if beside.exists() else "tensorboard"
    return f"run folder: {experiment.folder}\ncurves: {shlex.join([tensorboard, '--logdir', str(experiment.folder)])}"
