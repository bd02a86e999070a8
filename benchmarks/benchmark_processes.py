"""Training in several processes against one: losses step by step, and the time of a step.

Each run is of the same model on the same batches; the cores of this machine are divided among the processes. Real text
is read where --data names a folder of three texts, else random words.

    PYTHONPATH=DEQModel python benchmarks/benchmark_processes.py --processes 1 2 --data data/demo
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from measuring import count
from soak import write_corpus

import train_transformer
from system.launch import launch
from training.trainer import Trainer
from training.update import Update

MODEL = (
    "--dataset text --n_layer 2 --n_head 8 --d_head 32 --d_model 256 --d_inner 2048 --wnorm --batch_size 8 "
    "--tgt_len 75 --mem_len 75 --eval_tgt_len 75 --solver broyden --f_thres 15 --b_thres 15 --lr 0.001 "
    "--eval-interval 1000 --max_eval_steps 2"
)


def record(arguments: Sequence[str]) -> int:
    """Train; the first process writes each update's loss and seconds to the file that is named first."""
    path, *argv = arguments
    figures, update = [], Trainer.update

    def timed(trainer: Trainer, *given: object) -> Update:
        start = time.perf_counter()
        made = update(trainer, *given)  # ends with the host waiting for all processes
        figures.append((made.loss, time.perf_counter() - start))
        return made

    quiet = mock.patch("runs.experiment.say")
    with quiet, mock.patch.object(Trainer, "update", timed):
        status = train_transformer.main(argv)
    if os.environ.get("RANK", "0") == "0":
        Path(path).write_text(json.dumps(figures))
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=count, nargs="+", default=(1, 2), help="numbers to compare (default: 1 2)")
    parser.add_argument("--steps", type=count, default=20, help="updates (default: %(default)s)")
    parser.add_argument("--data", default=None, help="folder of train.txt, valid.txt and test.txt")
    args = parser.parse_args()
    results: dict[int, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            write_corpus(Path(folder))
        flags = (
            f"--data {args.data or folder} --work_dir {folder}/ {MODEL} --max_step {args.steps} --eval-interval 1000"
        )
        for n in args.processes:
            path = Path(folder, f"{n}.json")
            if status := launch(record, [str(path), *flags.split()], n):
                raise SystemExit(status)
            results[n] = json.loads(path.read_text())
    first = results[args.processes[0]]
    print("step  " + "  ".join(f"{f'loss in {n}':>12}" for n in results) + "  largest difference")
    for step in range(args.steps):
        losses = [result[step][0] for result in results.values()]
        difference = max(abs(loss - first[step][0]) for loss in losses)
        print(f"{step + 1:4d}  " + "  ".join(f"{loss:12.7f}" for loss in losses) + f"  {difference:.1e}")
    for n, result in results.items():
        seconds = statistics.median(seconds for _, seconds in result[1:])
        print(f"{n} process(es), {max(1, (os.cpu_count() or 1) // n)} thread(s) each: {1000 * seconds:.0f} ms a step")


if __name__ == "__main__":
    main()
