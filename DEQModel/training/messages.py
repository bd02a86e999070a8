"""What a training run says about itself, beside its figures."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from config.flags import CommandLine
from config.settings import Settings
from models.size import Size
from runs.experiment import Experiment
from system.distributed import World
from system.errors import UserError
from training.checkpoint import CHECKPOINT_FILE, Checkpoint
from training.trainer import ENTRIES, Trainer

NOTHING_WRITTEN = "nothing but the cache of the encoded corpus was written to disk (--debug)"


def introduction(trainer: Trainer, n_words: int, n_tokens: int, unigram: Mapping[str, float]) -> str:
    """What is going to be trained, on how many tokens, and what there is to beat: the unigram model's loss by split."""
    size = Size.of(trainer.model)
    unit, measure = trainer.narration.unit, trainer.narration.measure
    scores = " and ".join(f"{measure.name} {measure.shown(loss)} on {split}" for split, loss in unigram.items())
    return (
        f"{n_words:,} {unit}s, {n_tokens:,} tokens for training, {size.whole:,} parameters "
        f"({size.body:,} outside of embedding and softmax), on {trainer.device}{number_of_processes(trainer.world)}\n"
        f"for comparison, a unigram model scores {scores}"
    )


def number_of_processes(world: World) -> str:
    """How many processes there are, where there are several."""
    return f" in {world.size} processes" if world.size > 1 else ""


def how_to_go_on(experiment: Experiment, command: CommandLine, settings: Settings) -> str:
    """The command that resumes a run, once it has a checkpoint; it can be pasted into a shell, from any folder.

    It names the settings that the checkpoint does not hold, as those of a call that has saved nothing yet.
    """
    if experiment.folder is None or not (experiment.folder / CHECKPOINT_FILE).exists():
        return "no checkpoint has been written"
    script = Path(__file__).parents[1] / command.program
    words = [*_launcher(os.environ), str(script), "--restart", "--restart_dir", os.path.abspath(experiment.folder)]
    try:
        held = Checkpoint.newest(experiment.folder, ENTRIES)[0].settings
    except UserError:
        held = vars(settings)
    new = {name: getattr(settings, name) for name, value in held.items() if getattr(settings, name, value) != value}
    kept = {name: value for name, value in new.items() if command.flags[name].fixed is None and value is not None}
    return f"to go on: {shlex.join([*words, *shlex.split(command.typed(kept))])}{_elsewhere(os.environ)}"


def _launcher(environment: Mapping[str, str]) -> list[str]:
    """What the script is started with, in as many processes as now; --multi_gpu starts its own."""
    n = environment.get("LOCAL_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in environment or n == environment.get("WORLD_SIZE") == "1":
        return [sys.executable]
    return [_beside_python("torchrun"), "--nproc-per-node", n]


def _elsewhere(environment: Mapping[str, str]) -> str:
    several = environment.get("LOCAL_WORLD_SIZE", "1") != environment.get("WORLD_SIZE", "1")
    return " (on each machine, with the flags that tell torchrun of the others)" if several else ""


def _beside_python(program: str) -> str:
    """The path of a program that is installed with this interpreter."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else program


def where(experiment: Experiment) -> str:
    """Where a run's files are, and how to look at them."""
    if experiment.folder is None:
        return NOTHING_WRITTEN
    command = shlex.join([_beside_python("tensorboard"), "--logdir", str(experiment.folder)])
    return f"run folder: {experiment.folder}\ncurves: {command}"
