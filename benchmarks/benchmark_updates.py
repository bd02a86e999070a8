"""What an update of the systems of a comparison costs: milliseconds, taken in turn, and peak memory.

The systems are those of a comparison's TOML file, with their flags: the same model, optimizer, clipping and memory as
in a run. An update is at the last step of the run, so that --depth and --train_thres are at their last stage, and its
solves go on to their thresholds (f_eps and b_eps 0), as they do in a trained model that is hard to solve. The words are
drawn with frequencies 1 / rank. The peak is what an update holds at most above what was there before, weights and the
state of the optimizer among it, measured in a process of its own.

    PYTHONPATH=DEQModel python benchmarks/benchmark_updates.py benchmarks/comparisons/wikitext2.toml
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from comparison import Comparison, System
from measuring import count, in_mib, median_seconds_in_turn, peak_bytes

import train_transformer
from config.depth import training_depth
from config.solve_settings import SolveSettings
from data.batches import Batch
from evaluation.trained_model import make_model
from system.distributed import World
from training.architecture import chosen
from training.update import Updater

COMMANDS = [train_transformer.main.args[0], *train_transformer.main.keywords["others"]]


def update_of(system: System, n_token: int) -> Callable[[], None]:
    """An update of a system, ready to be repeated, each with the memory that the one before left."""
    torch.set_num_threads(1)
    command = chosen(COMMANDS, system.flags)
    settings = command.parse(system.flags)
    if isinstance(settings, SolveSettings):
        settings = replace(settings, f_eps=0.0, b_eps=0.0)
    model = make_model(command, settings, n_token, torch.device("cpu")).train()
    updater = Updater.of(model, settings, World())
    depth = training_depth(settings).at(settings.max_step)
    weights = 1 / torch.arange(1, n_token + 1)
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.multinomial(
        weights, (settings.tgt_len + 1) * settings.batch_size, replacement=True, generator=generator
    )
    words = drawn.view(settings.tgt_len + 1, settings.batch_size)
    batch = Batch(words[:-1], words[1:], start=0)
    memories = [None] * settings.batch_chunk

    def step() -> None:
        memories[:] = updater(batch, memories, depth).memories

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="a comparison of runs of train_transformer.py")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="of its systems (default: all)")
    parser.add_argument("--vocabulary", type=int, default=33278, help="words (default: %(default)s, WikiText-2's)")
    parser.add_argument("--repeats", type=count, default=15, help="to take median times of (default: %(default)s)")
    args = parser.parse_args()
    systems = Comparison.read(args.file).only(args.only, ()).systems
    steps = {system.name: update_of(system, args.vocabulary) for system in systems}
    seconds = median_seconds_in_turn(steps, args.repeats)
    first = seconds[systems[0].name]
    print(f"{'':24s}{'ms':>8s}{'ratio':>8s}{'peak MiB':>10s}")
    for system in systems:
        own, peak = seconds[system.name], in_mib(peak_bytes(partial(update_of, system, args.vocabulary)))
        print(f"{system.name:24s}{1e3 * own:8.0f}{own / first:8.2f}{peak:>10s}", flush=True)


if __name__ == "__main__":
    main()
