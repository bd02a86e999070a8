"""A trial: a run is broken and goes on, again and again, until it is through; then it is judged."""

import functools
import random
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.inside import PLACES, InCalls, InWrites, Preparation, stopping
from faults.processes import Ended, Process
from faults.records import Record, differences
from tiny_run import COURSE, LENGTHS, MODEL

from utils.training_state import CHECKPOINT_FILE, PREVIOUS_FILE

MAX_STEP = 12  # with 7 segments an epoch
COMMON = f"{MODEL} {LENGTHS} {COURSE} --dataset text --tgt_len 30 --max_step {MAX_STEP} --log-interval 3"
KINDS = {
    "shallow": "--pretrain_steps 20 --dropout 0.1 --dropatt 0.1 --save_interval 1",
    "both stages": "--pretrain_steps 5 --dropout 0.1 --solver broyden --save_interval 2",
    "equilibrium": "--dropout 0.1 --jac_loss_weight 1 --jac_loss_freq 0.5 --rand_f_thres_delta 2 --save_interval 3",
    "varlen": "--varlen --tgt_len 20 --dropout 0.1 --save_interval 1",
    "chunks": "--batch_size 5 --batch_chunk 3 --dropout 0.1 --save_interval 2",
    "bins": "--adaptive --cutoffs 8 16 --div_val 2 --wnorm --clip_nonemb --save_interval 3",
    "inv_sqrt": "--scheduler inv_sqrt --warmup_step 4 --optim RAdam --weight_decay 0.1 --save_interval 1",
    "dev_perf": "--scheduler dev_perf --eval-interval 2 --lr 1e-6 --optim SGD --save_interval 3",
    "constant": "--scheduler constant --optim Adagrad --save_interval 2",
    "cosine": "--scheduler cosine --warmup_step 4 --eta_min 0.001 --optim RMSprop --mem_len 0",
}
BIT_EQUAL, REFUSED, TOLD, LOST = OUTCOMES = ("bit-equal", "refused", "told", "lost")
SEARCHED_AGAIN = "the search for the best model starts again"


class LostError(Exception):
    """Neither the right result nor a clear refusal."""


@dataclass(frozen=True)
class Verdict:
    """What became of a trial.

    Attributes:
        outcome: "bit-equal": ended like the undisturbed run. "refused": with one line that says why, and where nothing
            was there to resume, started anew with that result. "told": the best model was lost, which the log says,
            and the training went its way all the same.
        note: why it is lost.
    """

    outcome: str
    note: str = ""


class Reference:
    """The undisturbed run of a kind.

    Args:
        kind: a key of `KINDS`.
        place: a folder with a corpus, `corpus`; the run's goes there too.
    """

    def __init__(self, kind: str, place: Path):
        self.kind, self.place = kind, place
        start = time.monotonic()
        self.folder = self._run("reference")
        self.seconds = time.monotonic() - start
        self.record = Record.of(self.folder)

    def _run(self, name: str, *inside: Preparation) -> Path:
        name = f"{self.kind} {name}".replace(" ", "-")
        ended = Process(arguments(self.kind, self.place / "corpus", self.place, name), self.place / name, inside).wait()
        if ended.status != 0:
            raise RuntimeError(f"the undisturbed run {name} has failed: {ended}")
        return self.place / "R-deq-text" / name

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Place, or "bytes", to the number of events there at which a process may be killed."""
        counted = {place: InCalls(place) for place in PLACES} | {"bytes": InWrites()}
        file = self.place / f"counts {self.kind}"

        def write() -> None:
            file.write_text("\n".join(f"{name}: {counter.count}" for name, counter in counted.items()))

        self._run("counted", *counted.values(), lambda: at_exit(write))
        return {name: int(count) for name, count in (line.split(": ") for line in file.read_text().splitlines())}


def arguments(kind: str, corpus: Path, place: Path, name: str) -> list[str]:
    """A command line."""
    return [*f"{COMMON} {KINDS[kind]}".split(), "--data", str(corpus), "--work_dir", f"{place}/R-", "--name", name]
