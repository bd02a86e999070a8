"""A corpus and a model so small that whole runs of the training script take a fraction of a second."""

import contextlib
import io
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch

import train_transformer
from config.flags import CommandLine

COMMAND: CommandLine = train_transformer.main.args[0]
MODEL = "--n_layer 2 --eval_n_layer 4 --n_head 2 --d_head 4 --d_model 8 --d_inner 16"
LENGTHS = "--batch_size 4 --tgt_len 8 --eval_tgt_len 8 --mem_len 8"
COURSE = "--f_thres 6 --b_thres 6 --lr 0.01 --max_step 4 --log-interval 2 --eval-interval 4"


def write_corpus(folder: Path, *, seed: int = 0, n_words: int = 24) -> Path:
    """train.txt, valid.txt and test.txt in `folder`: half of the words are another's upper-case form."""
    rng = random.Random(seed)
    lower = [f"word{i}" for i in range(n_words // 2)]
    words = lower + [word.upper() for word in lower]
    folder.mkdir(parents=True, exist_ok=True)
    for split, n_lines in (("train", 100), ("valid", 16), ("test", 14)):
        lines = [" ".join(rng.choices(words, k=6)) for _ in range(n_lines)]
        if split == "train":
            lines.insert(0, " ".join(words))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a call of the script left behind."""

    status: int
    out: str
    err: str
    folder: Path | None  # of the run

    @property
    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text())

    @property
    def settings(self) -> dict:
        return json.loads((self.folder / "settings.json").read_text())["settings"]

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "model_state_dict.pkl", weights_only=True)

    def same_weights(self, other: "Outcome") -> bool:
        """Whether two runs ended with the same model, to the bit."""
        a, b = self.weights, other.weights
        return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def call(arguments: str | list[str]) -> Outcome:
    """Run the script's main with these arguments, as the shell would pass them."""
    words = arguments.split() if isinstance(arguments, str) else arguments
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = train_transformer.main(words)
    lines = [line for line in out.getvalue().splitlines() if line.startswith("run folder: ")]
    folder = Path(lines[0].removeprefix("run folder: ")) if lines else None
    return Outcome(status, out.getvalue(), err.getvalue(), folder)


def perplexities(text: str) -> list[str]:
    """The last two: of valid and test."""
    return re.findall(r"(?:valid|test): perplexity (\S+)", text)[-2:]
