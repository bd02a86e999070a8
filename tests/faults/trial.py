"""A trial: a run is broken and goes on, again and again, until it is through; then it is judged."""

import functools
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_run import COURSE, LENGTHS, MODEL

from faults.inside import Events, InCalls, InWrites, stopping
from faults.processes import Ended, Preparation, Process
from faults.records import Record, differences
from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE

MAX_STEP = 12  # with 7 segments an epoch
COMMON = f"{MODEL} {LENGTHS} {COURSE} --dataset text --tgt_len 30 --max_step {MAX_STEP} --log-interval 3"
KINDS = {  # in four of them the best model is not the last
    "shallow": "--pretrain_steps 20 --dropout 0.1 --dropatt 0.1 --save_interval 1",
    "both-stages": "--pretrain_steps 5 --dropout 0.1 --solver broyden --lr 0.3 --save_interval 2",
    "equilibrium": "--dropout 0.1 --jac_loss_weight 1 --jac_loss_freq 0.5 --rand_f_thres_delta 2 --save_interval 3",
    "varlen": "--varlen --tgt_len 20 --dropout 0.1 --save_interval 1",
    "chunks": "--batch_size 5 --batch_chunk 3 --dropout 0.1 --lr 0.1 --save_interval 2",
    "bins": "--adaptive --cutoffs 8 16 --div_val 2 --wnorm --clip_nonemb --save_interval 3",
    "inv_sqrt": "--scheduler inv_sqrt --warmup_step 4 --optim RAdam --weight_decay 0.1 --save_interval 1",
    "dev_perf": "--scheduler dev_perf --eval-interval 2 --lr 1 --optim SGD --save_interval 3",
    "constant": "--scheduler constant --optim Adagrad --save_interval 2",
    "cosine": "--scheduler cosine --warmup_step 4 --eta_min 0.001 --optim RMSprop --mem_len 0",
}
Damage = Callable[[Path, random.Random], None]
BIT_EQUAL, SOUND, REFUSED, TOLD, LOST = OUTCOMES = ("bit-equal", "sound", "refused", "told", "lost")
BEST_IS_LOST = re.compile(r"^warning: .*(the search for .* starts again|the best model is lost)", re.MULTILINE)


class LostError(Exception):
    """Neither the right result nor a clear refusal."""


def arguments(kind: str, corpus: Path, place: Path, name: str) -> list[str]:
    """A command line; the run's folder is `<place>/R-deq-text/<name>`."""
    return [*f"{COMMON} {KINDS[kind]}".split(), "--data", str(corpus), "--work_dir", f"{place}/R-", "--name", name]


class Reference:
    """The undisturbed run of a kind.

    Args:
        kind: a key of `KINDS`.
        place: a folder with a corpus, `corpus`.
    """

    def __init__(self, kind: str, place: Path):
        self.kind, self.place, self.corpus = kind, Path(tempfile.mkdtemp(dir=place)), place / "corpus"
        self.folder = self.place / "R-deq-text" / kind
        start = time.monotonic()
        self._run()
        self.seconds = time.monotonic() - start
        self.record = Record.of(self.folder)

    def _run(self, *inside: Preparation, resumed: bool = False) -> None:
        words = arguments(self.kind, self.corpus, self.place, self.kind)
        if resumed:
            words = ["--restart", "--restart_dir", str(self.folder)]
        ended = Process(words, self.place / "output", inside).wait()
        if ended.status != 0:
            raise RuntimeError(f"an undisturbed run has failed: {ended}")

    @functools.cache  # noqa: B019 - a few references live as long as the process
    def count(self, place: str) -> int:
        """At how many events of a place a signal may come; "bytes" is a place, too."""
        events = InWrites() if place == "bytes" else InCalls(place)
        self._run(events, resumed=place == "resuming")
        return events.count

    def striking(self, place: str, rng: random.Random, number: int = signal.SIGKILL) -> Events:
        """A signal at one of these events."""
        at = rng.randrange(self.count(place))
        return InWrites(at, number) if place == "bytes" else InCalls(place, at, number)


@dataclass(frozen=True)
class Verdict:
    """What became of a trial.

    Attributes:
        outcome: "bit-equal": it ended like the undisturbed run. "sound": with finite weights and losses, under another
            learning rate. "refused": with one line that says why; where nothing
            had been saved, it was started anew and ended so. "told": with a warning that the best model was lost, and
            the training went its way all the same; or that the checkpoint is another run's. "lost": anything else.
        note: why it is lost.
        broken: how often the run was broken.
    """

    outcome: str
    note: str = ""
    broken: int = 0


class Trial:
    """A run that is broken.

    Args:
        reference: what it is to end like.
        other: the reference of another kind, when it is asked for.
        number: of the trial, for what takes turns.
        place: an empty folder of its own.
        rng: for all that is random.
    """

    def __init__(
        self, reference: Reference, other: Callable[[], Reference], number: int, place: Path, rng: random.Random
    ):
        self.reference, self.other, self.number, self.place, self.rng = reference, other, number, place, rng
        self.corpus, self.work_place = reference.corpus, place
        self.folder: Path | None = None
        self.n_calls = self.broken = self.resumed = 0
        self.started_anew = False

    def call(self, words: list[str], *inside: Preparation) -> Process:
        """The script with these arguments."""
        self.n_calls += 1
        return Process(words, self.place / f"call-{self.n_calls}", inside)

    def start(self, *inside: Preparation, further: Sequence[str] = ()) -> Process:
        """A new run, with further flags."""
        name = f"run-{self.n_calls}"
        self.folder = self.work_place / "R-deq-text" / name
        return self.call([*arguments(self.reference.kind, self.corpus, self.work_place, name), *further], *inside)

    def resume(self, *inside: Preparation, further: Sequence[str] = ()) -> Process:
        """The run goes on in its folder, with further flags."""
        return self.call(["--restart", "--restart_dir", str(self.folder), *further], *inside)

    def copy_corpus(self) -> None:
        """From now on the corpus is a copy of its own, which nobody has encoded."""
        self.corpus = Path(tempfile.mkdtemp(prefix="corpus-", dir=self.place))
        for text in self.reference.corpus.glob("*.txt"):
            shutil.copy(text, self.corpus)

    def damage(self, path: Path, damages: Sequence[Damage]) -> None:
        """Damage a file, in a way whose turn it is."""
        damages[self.number % len(damages)](path, self.rng)
        self.broken += 1

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume."""
        return self.folder is not None and any((self.folder / n).exists() for n in (CHECKPOINT_FILE, PREVIOUS_FILE))

    def go_on(self, *inside: Preparation) -> Process:
        """Resume the run; where it has no checkpoint, see that this is refused, and start anew."""
        if self.has_checkpoint:
            self.resumed += 1
            return self.resume(*inside)
        if self.folder is not None:
            self.refused(self.resume().wait())
            self.started_anew = True
        return self.start(*inside)

    def stop_at(self, step: int) -> None:
        """Start, and stop properly once `step` updates are done."""
        ended = self.start(stopping(step)).wait()
        self.broken += 1
        if ended.status != 128 + signal.SIGTERM:
            raise LostError(f"SIGTERM at step {step}: {ended}")

    def finish(self) -> Verdict:
        """Go on undisturbed, and judge."""
        return self.judge(self.go_on().wait())

    def refused(self, ended: Ended) -> Verdict:
        """For what must be refused."""
        if reason := ended.why_no_refusal():
            raise LostError(f"no refusal, {reason}")
        return Verdict(REFUSED)

    def judge(
        self, ended: Ended, *, may_refuse: bool = False, may_tell: bool = False, but: Sequence[str] = ()
    ) -> Verdict:
        """What became of the run.

        Args:
            ended: its last process.
            may_refuse: there is nothing that the right result could be made of.
            may_tell: the best model was lost.
            but: what may be different, such as "log" or "checkpoint best_file".
        """
        if ended.status != 0 and may_refuse:
            return self.refused(ended)
        if ended.status != 0 or ended.complaints:
            raise LostError(f"the last call ended with status {ended.status}: {ended.err[-1500:]!r}")
        mine, whole = vars(Record.of(self.folder)), vars(self.reference.record)
        found = [line for name in mine for line in differences(whole[name], mine[name], name)]
        found = [line for line in found if not line.startswith(tuple(but))]
        if not found:
            return Verdict(REFUSED if self.started_anew and not self.resumed else BIT_EQUAL)
        about_the_best = all(line.startswith("checkpoint best") for line in found if line.startswith("checkpoint"))
        if may_tell and about_the_best and BEST_IS_LOST.search(ended.out):
            return Verdict(TOLD)
        raise LostError("; ".join(found[:5]))
