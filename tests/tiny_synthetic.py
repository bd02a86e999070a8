"""Tiny runs on synthetic tasks."""

from pathlib import Path

from tiny_trained import call_program

from synthetic.program import main
from synthetic.record import Record

SMALL = "--seq_len 3 --n_train 30 --n_test 7 --batch_size 5 --max_step 4 --d_model 8 --d_inner 8 --n_head 2"
SOLVES = "--solver broyden --f_thres 5 --b_thres 5 --pretrain_steps 0"


def trained(folder: Path, more: str = "") -> tuple[Record, str]:
    """The record of a run, and what it said."""
    outcome = call_program(main, f"{SMALL} {SOLVES} --out {folder} {more}")
    assert (outcome.status, outcome.err) == (0, "")
    path = outcome.out.splitlines()[-1].removeprefix("figures: ")
    return Record.read(Path(path)), outcome.out
