"""How likely a model finds a text.

Shapes: N tokens of the text, R rows of T tokens that it is cut into, b of them computed at the same time, L tokens of a
segment, V words.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from config.depth import evaluation_depth
from config.words import EVALUATION_LENGTHS, options
from data.batches import OrderedBatches
from data.measure import MEASURES, bits
from data.text_tokens import TextTokens
from evaluation.evaluation import solve_summary
from evaluation.report import INDENT, EvaluationReport, bar_figures
from evaluation.solve_statistics import SolveStatistics
from evaluation.token_scores import TokenScores
from evaluation.trained_model import TrainedModel
from models.protocol import Head
from modules.depth import Applications
from modules.fixed_weights import fixed_weights
from system.out_of_memory import enough_memory
from system.progress import progress_bar

AT_A_TIME = 1 << 23  # log-probabilities that are held while ranks are found


@dataclass(frozen=True)
class Score:
    """What a model makes of a text.

    Attributes:
        report: its perplexity, and what that depends on.
        n_words: scored tokens that are words, or end one.
        n_characters: of the scored tokens, as `TextTokens.characters` counts them.
        tokens: what it makes of each token, where that was asked for.
    """

    report: EvaluationReport
    n_words: int
    n_characters: int
    tokens: TokenScores | None

    @property
    def bits(self) -> float:
        """Of all scored tokens together, line ends included."""
        return bits(self.report.loss) * self.report.n_tokens

    @property
    def bits_per_word(self) -> float:
        """NaN where no word was scored."""
        return self.bits / self.n_words if self.n_words else math.nan

    @property
    def bits_per_character(self) -> float:
        """Every scored token has a character or more."""
        return self.bits / self.n_characters

    def __str__(self) -> str:
        shared = "line ends" if self.report.unit == "word" else "blanks and line ends"
        figures = (
            f"{self.bits_per_word:.5f} bits per word ({self.n_words:,} words, the bits of {shared} shared among them)",
            f"{self.bits_per_character:.5f} bits per character ({self.n_characters:,} characters)",
        )
        return f"\n{INDENT}".join([str(self.report), *figures])


@torch.no_grad()
def score(
    trained: TrainedModel, text: TextTokens, *, rows: int, batch_size: int | None = None, per_token: bool = False
) -> Score:
    """Read a text in R rows as an evaluation does, and score all tokens of a row but the first.

    Args:
        trained: the model.
        text: N tokens; those that do not fill the rows are left out.
        rows: R.
        batch_size: rows that are computed at the same time, None for all; solves that stop over the whole batch know
            of these alone.
        per_token: whether what is known of each token is kept.

    Raises:
        UserError: the text is too short for so many rows, or memory runs out.
    """
    remedy = "pass a longer text" if rows == 1 else "pass --rows 1, or a longer text"
    segment = trained.settings.eval_tgt_len
    batches = OrderedBatches(text.ids, rows, segment, device=trained.device, text=text.name, remedy=remedy)
    size = batch_size or rows
    parts = [range(first, min(first + size, rows)) for first in range(0, rows, size)]
    reader = _Reader(trained, len(text) // rows, TokenScores.unscored(len(text)) if per_token else None)
    start = time.perf_counter()
    with (
        enough_memory(f"scoring {text.name}", f"lower {options(trained.settings, 'batch_size', *EVALUATION_LENGTHS)}"),
        progress_bar(len(batches) * len(parts), "scoring") as bar,
        fixed_weights(trained.model),
    ):
        nll = torch.cat([reader.read(batches.only(part), part, bar) for part in parts]).tolist()
    scored = scored_tokens(len(text), rows)
    report = EvaluationReport(
        split=text.name,
        loss=math.fsum(nll) / int(np.count_nonzero(scored)),
        n_tokens=int(np.count_nonzero(scored)),
        n_segments=len(batches),
        rows=rows,
        segment=segment,
        memory=trained.model.memory_length,
        shallow=reader.depth.n if isinstance(reader.depth, Applications) else None,
        solve=solve_summary(trained.settings, reader.solves) if reader.solves.n_solves else None,
        radius=None,
        seconds=time.perf_counter() - start,
        unit=text.unit,
    )
    n_words = int(np.count_nonzero(text.is_word & scored))
    return Score(report, n_words, int(text.characters[scored].sum()), reader.tokens)


def scored_tokens(n: int, rows: int) -> np.ndarray:
    """Which of the N tokens of a text are scored, (N,) bool: not the first of a row, and none behind the last row."""
    length = n // rows
    scored = np.arange(n) < rows * length
    scored[: rows * length : length] = False
    return scored


class _Reader:
    """Reads rows of a text from their beginning to their end.

    Args:
        trained: the model.
        length: T.
        tokens: takes in what is known of each token; None where nobody asks.
    """

    def __init__(self, trained: TrainedModel, length: int, tokens: TokenScores | None):
        self.trained, self.length, self.tokens = trained, length, tokens
        self.depth, self.solves = evaluation_depth(trained.settings), SolveStatistics()
        self.measure = MEASURES[trained.rule.unit]

    def read(self, segments: OrderedBatches, rows: range, bar: tqdm) -> Tensor:
        """Σ nll of each of these rows, (b,) float64."""
        head, memory, sums, begin = self.trained.model.head, None, 0.0, time.perf_counter()
        for segment in segments:
            hidden = self.trained.model.hidden(segment.tokens, memory, self.depth)
            memory, states, targets = hidden.memory, hidden.states.flatten(0, 1), segment.targets
            nll = head.nll(hidden.states, targets)
            sums = sums + nll.sum(0, dtype=torch.float64)
            solve = hidden.solve and hidden.solve.forward
            self.solves.add(solve)
            if self.tokens is not None:
                rank = _ranks(head, states, targets.flatten(), len(self.trained.vocab)).view(targets.shape)
                self.tokens.put(rows, self.length, segment.start, nll, rank, solve)
            if bar.update():
                seen = len(rows) * (segment.start + len(targets))
                speed = seen / (time.perf_counter() - begin)
                bar.show(bar_figures(float(sums.sum()) / seen, self.measure, speed, self.solves))
        return sums


def _ranks(head: Head, states: Tensor, targets: Tensor, n_words: int) -> Tensor:
    """1 + the number of words that are likelier than the target, (N,); of a bounded number of tokens at a time."""
    ranks = []
    for some, own in zip(*(x.split(max(AT_A_TIME // n_words, 1)) for x in (states, targets)), strict=True):
        log_p = head.log_prob(some)
        ranks.append(1 + (log_p > log_p.gather(1, own[:, None])).sum(1))
    return torch.cat(ranks)
