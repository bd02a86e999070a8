"""What a training run says about itself, beside its figures."""

import dataclasses
import shlex
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.flags import CommandLine
from config.parser import OFF
from config.settings import Settings
from runs.experiment import Experiment
from system.distributed import World
from training.checkpoint import CHECKPOINT_FILE
from training.trainer import Trainer

WIDTH = 110  # columns of a line
NOTHING_WRITTEN = "nothing but the cache of the encoded corpus was written to disk (--debug)"


def introduction(trainer: Trainer, n_words: int, n_tokens: int, unigram: Mapping[str, float]) -> str:
    """What is going to be trained, on how many tokens, and what there is to beat: perplexities by split."""
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    scores = " and ".join(f"perplexity {score:.3f} on {split}" for split, score in unigram.items())
    return (
        f"{n_words:,} words, {n_tokens:,} tokens for training, {size:,} parameters, on "
        f"{trainer.device}{number_of_processes(trainer.world)}\nfor comparison, a unigram model scores {scores}"
    )


def model_in_words(command: CommandLine, settings: Settings) -> str:
    """The settings of a model that a score depends on, as flags; those of its solves are in the reports."""
    own = [field.name for field in dataclasses.fields(command.spec.flags)]
    names = [name for name in ("dataset", *own) if command.flags[name].is_scored]
    names += [name for name in ("grad", "rev_beta") if getattr(settings, name) != command.defaults[name]]
    given = " ".join(_as_flag(command.flag_names[name], getattr(settings, name)) for name in names)
    lines = textwrap.wrap(
        f"model: {command.spec.name} {given}", WIDTH, subsequent_indent="    ", break_on_hyphens=False
    )
    return "\n".join(lines)


def _as_flag(flag: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag if value else f"{OFF}{flag[2:]}"
    return f"{flag} {' '.join(map(str, value)) or 'none' if isinstance(value, tuple) else value}"


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
