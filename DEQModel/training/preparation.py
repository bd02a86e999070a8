"""What a run needs before its first update: its corpus checked, its model built, its text cut into batches."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.settings import Settings
from data.batches import OrderedBatches, VariableLengthBatches
from data.corpus import Corpus
from evaluation.evaluation import EVAL_ROWS
from system.distributed import World
from system.errors import UserError
from training.checkpoint import Checkpoint, corpus_of

HELD_OUT = ("valid", "test")


def check_corpus(settings: Settings, checkpoint: Checkpoint | None, corpus: Corpus) -> list[str]:
    """Compare the corpus with that of the run which goes on, or whose model is evaluated.

    Returns:
        Warnings of texts that are others, where the run can do with them.

    Raises:
        UserError: the words have other numbers, or the text to go on with is another.
    """
    if not settings.restart_dir:
        return []
    known = checkpoint.corpus if checkpoint else corpus_of(settings.restart_dir)
    if known is None:
        return []
    now, before = corpus.checksum.split("-"), known.split("-")
    needed = 2 if checkpoint else 1  # the words, and the text to train on
    if now[:needed] != before[:needed]:
        raise UserError(
            f"--data {settings.data} with --dataset {settings.dataset} is not what the run in {settings.restart_dir} "
            "was trained on: its words or its training text are others; pass the same texts, or start a new run"
        )
    compared = zip(HELD_OUT, now[2:], before[2:], strict=False)  # older programs did not note them
    return [
        f"warning: {text_file(settings, split)} is not the text that the run in {settings.restart_dir} had: losses on "
        f"{split} do not compare with earlier ones"
        for split, one, other in compared
        if one != other
    ]


def text_file(settings: Settings, split: str) -> str:
    """The text of a split."""
    return str(Path(settings.data, f"{split}.txt"))


def held_out_batches(settings: Settings, corpus: Corpus, device: torch.device) -> dict[str, OrderedBatches]:
    """The splits that are evaluated, cut up as settings ask for."""
    return {
        split: OrderedBatches(
            getattr(corpus, split),
            EVAL_ROWS,
            settings.eval_tgt_len,
            device=device,
            text=text_file(settings, split),
            remedy=f"evaluation reads in {EVAL_ROWS} rows, use a longer text",
        )
        for split in HELD_OUT
    }


def training_batches(
    settings: Settings, corpus: Corpus, device: torch.device, world: World
) -> OrderedBatches | VariableLengthBatches:
    """This process's rows of the training split, in the batches that the settings ask for.

    Raises:
        UserError: the text is too short, or a process has fewer rows than chunks.
    """
    rows = [world.rows(settings.batch_size, settings.gpu0_bsz, rank) for rank in range(world.size)]
    if (fewest := min(map(len, rows))) < settings.batch_chunk:
        raise UserError(
            f"--batch_chunk {settings.batch_chunk} is more than the {fewest} sequences of one of the {world.size} "
            "processes: a chunk needs at least one sequence"
        )
    given: dict[str, Any] = {
        "device": device,
        "rows": rows[world.rank],
        "text": text_file(settings, "train"),
        "remedy": f"pass a smaller --batch_size than {settings.batch_size} or use a longer text",
    }
    if settings.varlen:
        rng = np.random.RandomState(settings.seed)
        return VariableLengthBatches(corpus.train, settings.batch_size, settings.tgt_len, rng, **given)
    return OrderedBatches(corpus.train, settings.batch_size, settings.tgt_len, **given)
