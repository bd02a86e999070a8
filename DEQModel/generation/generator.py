"""Samples that continue a prompt, word by word."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from config.depth import evaluation_depth
from evaluation.solve_statistics import SolveStatistics
from evaluation.trained_model import TrainedModel
from generation.reading import Reading, read
from generation.sampling import Sampling
from generation.settings import N_SEEDS
from models.protocol import Memory
from modules.deq import DEQModule
from system.errors import UserError

REMEDY_OF_SOLVES = "change --solver or --f_thres, or pass weights of a model whose solves converge"


class Draw(NamedTuple):
    """A word that was drawn."""

    sample: int
    word: int  # its id


class Generator:
    """Continues prompts with a trained model, whose solves stop sequence by sequence, whatever its settings say.

    Sample i draws from a generator of its own, seeded with `seed` + i, and its solves do not know of the others: up to
    the rounding of products of other sizes it is the same however many samples there are.

    Args:
        trained: the model; its settings say how it solves, and `eval_tgt_len` how much of a prompt it reads at once.
        sampling: how words are drawn.
        seed: of the first sample.

    Attributes:
        solves: what all solves so far came to.
    """

    def __init__(self, trained: TrainedModel, sampling: Sampling, seed: int):
        self.trained, self.sampling, self.seed = trained, sampling, seed
        self.depth = evaluation_depth(trained.settings, by_sequence=True)
        self.solves = SolveStatistics()

    def draws(self, prompt: Sequence[int], *, length: int, samples: int = 1, stop: int | None = None) -> Iterator[Draw]:
        """The words that continue a prompt as they are drawn: in turn one for each sample.

        The prompt is read once, for all samples. After it there is one solve a word, of that word alone behind the
        memory.

        Args:
            prompt: ids of its tokens, one or more.
            length: words of a sample.
            samples: how many there are.
            stop: the word that ends a sample, as its last one; the others go on without that sample.

        Raises:
            UserError: the model's states are not finite.
        """
        device = self.trained.device
        generators = [torch.Generator().manual_seed((self.seed + sample) % N_SEEDS) for sample in range(samples)]
        rows = list(range(samples))  # the samples that go on
        reading = self._read(torch.tensor(prompt, device=device)[:, None], None)
        reading = reading.select(torch.zeros(samples, dtype=torch.int64, device=device))
        for position in range(length):
            if not reading.log_p.isfinite().all():
                raise UserError(
                    f"behind {position} new words the model gives no probabilities, its states are not finite: "
                    f"{REMEDY_OF_SOLVES if isinstance(self.depth, DEQModule) else 'pass the weights of another model'}"
                )
            uniform = [torch.rand((), generator=generators[sample], dtype=torch.float64) for sample in rows]
            words = self.sampling.draw(reading.log_p, torch.stack(uniform).to(device))
            drawn = words.tolist()
            yield from map(Draw, rows, drawn)
            going_on = [row for row, word in enumerate(drawn) if word != stop]
            if not going_on or position == length - 1:
                return
            if len(going_on) < len(rows):
                rows = [rows[row] for row in going_on]
                kept = torch.tensor(going_on, device=device)
                reading, words = reading.select(kept), words[kept]
            reading = self._read(words[None], reading.memory)

    def _read(self, tokens: Tensor, memory: Memory | None) -> Reading:
        trained, depth = self.trained, self.depth
        if tokens.numel() == 1 and isinstance(depth, DEQModule):
            depth = partial(depth, prepare="eager")  # packed weights take longer to make, and no less to use on one row
        reading = read(trained.model, tokens, memory, depth, trained.settings.eval_tgt_len)
        for solve in reading.solves:
            self.solves.add(solve)
        return reading
