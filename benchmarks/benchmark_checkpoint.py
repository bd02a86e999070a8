"""What a checkpoint costs: size, seconds to write and to read back, and the share of a run that writing takes.

The model has the published size (98 M parameters, with Adam), the text is random. The share is that of one write at
every --eval-interval (its default, 4000 steps) in the time of that many updates, as measured here on the batch that is
asked for: the published batch of 56 sequences takes longer, so that its share is smaller.

    PYTHONPATH=DEQModel python benchmarks/benchmark_checkpoint.py --folder /some/disk
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import count, device_of

from config.flags import CommandLine
from config.settings import Settings
from data.batches import OrderedBatches
from evaluation.trained_model import make_model
from models.transformers.spec import SPEC
from runs.experiment import Experiment
from training.checkpoint import CHECKPOINT_FILE, Checkpoint
from training.trainer import ENTRIES, Trainer

N_TOKEN = 267_735
PUBLISHED = (
    "--adaptive --div_val 4 --d_embed 700 --d_model 700 --n_head 10 --d_head 70 --d_inner 48000 --dropout 0.05 --wnorm "
    "--tgt_len 150 --mem_len 150 --solver broyden --f_thres 25 --b_thres 35"
)


def make_trainer(batch_size: int, folder: Path, device: torch.device) -> Trainer:
    """A trainer of the published model on random words."""
    cuda = "--cuda" if device.type == "cuda" else ""
    command = CommandLine("benchmark_checkpoint.py", SPEC)
    settings = command.parse(f"{PUBLISHED} --batch_size {batch_size} --work_dir {folder}/ {cuda}".split())
    uniform = np.random.default_rng(0).random(batch_size * 150 * 40)
    ids = np.minimum(N_TOKEN**uniform, N_TOKEN - 1).astype(np.int32)  # frequent words more often than rare ones
    batches = OrderedBatches(ids, batch_size, settings.tgt_len, device=device)
    model = make_model(command, settings, N_TOKEN, device).train()
    return Trainer(model, settings, batches, batches, Experiment(settings))


def update_seconds(trainer: Trainer, steps: int) -> float:
    """Median time of an update, after one that does not count."""
    times = []
    for batch, _ in zip(trainer.batches.from_position(0), range(steps + 1), strict=False):
        start = time.perf_counter()
        trainer.update(batch, start)  # ends with the host waiting for the loss
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default=None, help="where to write (default: the folder for temporary files)")
    parser.add_argument("--batch_size", type=count, default=1, help="sequences of an update (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=3, help="updates to take the median of (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=5, help="writes and reads, likewise (default: %(default)s)")
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu or cuda (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        trainer = make_trainer(args.batch_size, Path(folder), args.device)
        n_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        print(f"{n_parameters:,} parameters, Adam, on {trainer.device}", flush=True)
        update = update_seconds(trainer, args.steps)
        writes, reads = [], []
        for _ in range(args.repeats):
            start = time.perf_counter()
            trainer.save()
            writes.append(time.perf_counter() - start)
            start = time.perf_counter()
            checkpoint, _ = Checkpoint.newest(trainer.experiment.folder, ENTRIES)
            checkpoint.resume(())
            reads.append(time.perf_counter() - start)
        size = (trainer.experiment.folder / CHECKPOINT_FILE).stat().st_size
        write, interval = statistics.median(writes), Settings().steps_between_saves
        print(f"checkpoint          {size / 1e9:.2f} GB")
        print(f"write, synced       {write:.2f} s (least {min(writes):.2f}, most {max(writes):.2f})")
        print(f"read and verified   {statistics.median(reads):.2f} s")
        print(f"update              {update:.2f} s, {args.batch_size} of the published 56 sequences")
        print(f"share of training   {write / (interval * update):.4%} at one write in {interval} updates")


if __name__ == "__main__":
    main()
