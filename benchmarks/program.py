"""The programs that train what is compared: how each is told where its run goes, and what it leaves there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from outcome import Outcome, of_language_model, of_synthetic_task

OF_PLACES = ("--work_dir", "--name", "--out")
LM_FOLDER = "*/*"  # of a run, below its place: deq-<dataset>/<name>


@dataclass(frozen=True)
class Program:
    """A kind of programs whose runs have a common measure.

    Attributes:
        place: the flags that send a run to a folder.
        not_given: flags that a comparison's file may not give: they say where a run goes, make it none, or have its
            settings stand elsewhere, where nobody would see that they have changed.
        results: the pattern of the file that a finished run leaves in its place.
        checkpoint: of the file that one which was interrupted goes on from; empty where there is none.
        read: the outcome of a finished run, from that file.
    """

    place: Callable[[Path], tuple[str, ...]]
    not_given: tuple[str, ...]
    results: str
    checkpoint: str
    read: Callable[[Path], Outcome]


LANGUAGE_MODEL = Program(
    place=lambda place: ("--work_dir", f"{place}/", "--name", "run"),
    not_given=(*OF_PLACES, "--restart", "--restart_dir", "--eval", "--sweep", "--debug", "--config"),
    results=f"{LM_FOLDER}/results.json",
    checkpoint=f"{LM_FOLDER}/checkpoint.pt",
    read=of_language_model,
)
SYNTHETIC_TASK = Program(
    place=lambda place: ("--out", str(place / "figures")),
    not_given=(*OF_PLACES, "--table"),
    results="figures/*.json",
    checkpoint="",
    read=of_synthetic_task,
)
PROGRAMS = {
    "train_transformer.py": LANGUAGE_MODEL,
    "train_trellisnet.py": LANGUAGE_MODEL,
    "train_synthetic.py": SYNTHETIC_TASK,
}
