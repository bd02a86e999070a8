"""Memory in the course of a long run of small steps: flat, or something is kept that should not be.

The steps solve for equilibria, in two chunks, with dropout, the Jacobian penalty, log lines, checkpoints and
validations. Printed: resident memory, and the number of tensors that Python knows of. (With --varlen memory grows by
some 10 MiB over the first thousands of steps, and then no more: oneDNN keeps compiled kernels by shape.)

    PYTHONPATH=DEQModel python benchmarks/soak.py --steps 200 1000 2000
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
from pathlib import Path
from unittest import mock

import torch
from measuring import count, kilobytes

import train_transformer
from training.trainer import Trainer

FLAGS = (
    "--dataset text --n_layer 2 --n_head 2 --d_head 8 --d_model 16 --d_inner 32 --adaptive --cutoffs 20 60 --div_val 2 "
    "--wnorm --dropout 0.1 --dropatt 0.1 --batch_size 4 --batch_chunk 2 --tgt_len 8 --mem_len 8 --eval_tgt_len 8 "
    "--solver broyden --f_thres 4 --b_thres 4 --jac_loss_weight 0.1 --pretrain_steps 50 "
    "--log-interval 10 --eval-interval 100 --save_interval 25 --max_eval_steps 10"
)


def write_corpus(folder: Path) -> None:
    """Texts of 100 words in random order."""
    rng, words = random.Random(0), [f"w{i}" for i in range(100)]
    for split, n_lines in (("train", 500), ("valid", 100), ("test", 100)):
        lines = [" ".join(words)] + [" ".join(rng.choices(words, k=10)) for _ in range(n_lines)]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def n_tensors() -> int:
    """Tensors that are alive; garbage is not collected, as it is to be seen."""
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=count, nargs="+", default=(200, 1000, 2000), help="(default: 200 1000 2000)")
    steps = parser.parse_args().steps
    between = Trainer._between_updates

    def watched(trainer: Trainer) -> None:
        between(trainer)
        if trainer.progress.step in steps:
            resident = kilobytes("VmRSS") / 1024
            print(f"step {trainer.progress.step:6d}   {resident:8.1f} MiB   {n_tensors():6d} tensors", flush=True)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Trainer, "_between_updates", watched):
        write_corpus(Path(folder))
        flags = f"--data {folder} --work_dir {folder}/ {FLAGS} --max_step {max(steps) + 1} --warmup_step 10"
        with mock.patch("runs.experiment.say"):  # the figures alone
            status = train_transformer.main(flags.split())
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
