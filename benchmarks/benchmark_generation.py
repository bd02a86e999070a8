"""Words a second of generated text, with the memory carried on and with the whole text read again for every word.

The model is a run's, or one of the demo's size with random weights. Samples of as many words as its memory holds follow
the end of a line; then the same words are read without a memory, one solve over all of them for each. Printed for each
number of samples: words a second of all samples together, steps a solve of the first kind, and the largest difference
between the log-probabilities of both, which is the solver's tolerance: an equilibrium word by word is that of the whole
text. The last line is that of float64 with a tight eps, over a few words.

Between them, behind a full memory, where the time of a word goes: the cell's context (the memory's keys and values, the
weights), packing of weights, evaluations of f, the head, the draw; the rest is the solver's own, the embedding and the
loop.

    PYTHONPATH=DEQModel python benchmarks/benchmark_generation.py [RUN]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from measuring import count
from torch import Tensor

from config.depth import evaluation_depth
from config.flags import CommandLine
from data.vocabulary import Vocab, VocabularyRule
from evaluation.trained_model import TrainedModel
from generation.generator import Generator
from generation.reading import read
from generation.sampling import Sampling
from models.protocol import CellMap
from models.transformers.cell import TransformerCell
from models.transformers.spec import SPEC
from modules.depth import Depth
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax

DEMO = (
    "--dataset text --adaptive --cutoffs 2000 5000 --div_val 2 --wnorm --d_model 128 --n_head 4 --d_head 32 "
    "--d_inner 512 --solver broyden --f_thres 16 --mem_len 64 --eval_tgt_len 64 --init_std 0.05 --emb_init_range 0.1"
)
N_WORDS = 10_000
TIMED = {  # what the time of a word goes to -> the calls that take it
    "context": (TransformerCell, "context"),
    "packing": (CellMap, "pack"),
    "f": (TransformerCell, "forward"),
    "head": (ProjectedAdaptiveLogSoftmax, "log_prob"),
    "draw": (Sampling, "draw"),
}


def random_model() -> TrainedModel:
    """Of the demo's size."""
    settings = CommandLine("benchmark", SPEC).parse(DEMO.split())
    torch.manual_seed(settings.seed)
    model = SPEC.build(SPEC.configure(settings, N_WORDS))
    SPEC.initialise(model, settings)
    vocab = Vocab(["<eos>", *(f"w{i}" for i in range(1, N_WORDS))])
    return TrainedModel(model.eval(), vocab, VocabularyRule(("train",)), settings, (), Path("none"))


def generated(trained: TrainedModel, n_words: int, samples: int) -> tuple[Tensor, Generator, float]:
    """Words (N, B), the generator, and seconds."""
    generator = Generator(trained, Sampling(), seed=0)
    start = time.perf_counter()
    draws = list(generator.draws([0], length=n_words, samples=samples))
    seconds = time.perf_counter() - start
    return torch.tensor([draw.word for draw in draws]).view(n_words, samples), generator, seconds


def whole_text_again(trained: TrainedModel, text: Tensor) -> tuple[list[Tensor], float]:
    """Log-probabilities (B, V) behind each word of a text (N, B), by a solve over all before it; and seconds."""
    depth, found = _depth(trained), []
    start = time.perf_counter()
    for n in range(1, len(text) + 1):
        found.append(read(trained.model, text[:n], None, depth, segment=n).log_p)
    return found, time.perf_counter() - start


def word_by_word(trained: TrainedModel, text: Tensor) -> list[Tensor]:
    """The same with the memory carried on."""
    depth, memory, found = _depth(trained), None, []
    for word in text:
        reading = read(trained.model, word[None], memory, depth, segment=1)
        memory = reading.memory
        found.append(reading.log_p)
    return found


def _depth(trained: TrainedModel) -> Depth:
    return evaluation_depth(dataclasses.replace(trained.settings, stop_scope="sequence"))


def largest_difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def compare(trained: TrainedModel, n_words: int, samples: int) -> str:
    """A line of the table."""
    words, generator, with_memory = generated(trained, n_words, samples)
    text = torch.cat([torch.zeros_like(words[:1]), words[:-1]]).to(trained.device)  # behind the end of a line
    whole, without = whole_text_again(trained, text)
    difference = largest_difference(whole, word_by_word(trained, text))
    n = n_words * samples
    return (
        f"{samples:7d} {n_words:6d} {n / with_memory:14,.1f} {n / without:14,.1f} {without / with_memory:8.1f} "
        f"{generator.solves.mean_steps:8.1f} {difference:14.1e}"
    )


def exactly(trained: TrainedModel) -> TrainedModel:
    """The same in float64, with solves that go on to the end."""
    settings = dataclasses.replace(trained.settings, f_thres=200, f_eps=1e-12)
    return dataclasses.replace(trained, model=trained.model.double(), settings=settings)


def shares(trained: TrainedModel, n_words: int, samples: int) -> str:
    """Milliseconds of a word behind a full memory, and where they go."""
    seconds = dict.fromkeys(TIMED, 0.0)

    def timed(name: str, method: Callable) -> Callable:
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - start

        return call

    prompt = torch.randint(len(trained.vocab), (trained.settings.mem_len,)).tolist()
    draws = Generator(trained, Sampling(), seed=0).draws(prompt, length=n_words + 1, samples=samples)
    for _ in range(samples):
        next(draws)  # the prompt is read
    patches = [
        mock.patch.object(owner, name, timed(part, getattr(owner, name))) for part, (owner, name) in TIMED.items()
    ]
    for patch in patches:
        patch.start()
    start = time.perf_counter()
    n_drawn = sum(1 for _ in draws)
    total = time.perf_counter() - start
    for patch in patches:
        patch.stop()
    seconds["rest"] = total - sum(seconds.values())
    parts = ", ".join(f"{part} {value / total:.0%}" for part, value in seconds.items())
    return f"{samples} samples: {1000 * total / (n_drawn / samples):.1f} ms a word of each: {parts}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="folder of a run (default: random weights)")
    parser.add_argument("--samples", type=count, nargs="+", default=[1, 8], help="(default: %(default)s)")
    parser.add_argument("--words", type=int, help="of a sample (default: as many as the memory holds)")
    args, further = parser.parse_known_args()
    trained = (
        TrainedModel.load("benchmark", run=args.run, changed=CommandLine("benchmark", SPEC).given(further))
        if args.run
        else random_model()
    )
    n_words = args.words or trained.settings.mem_len
    generated(trained, 8, 1)  # does not count
    print(f"{'':14s} {'words/s with':>14s} {'words/s with':>14s}")
    heads = ("samples", "words", "the memory", "whole texts", "factor", "steps", "|Δ log p|")
    print("{:>7s} {:>6s} {:>14s} {:>14s} {:>8s} {:>8s} {:>14s}".format(*heads))
    for samples in args.samples:
        print(compare(trained, n_words, samples), flush=True)
    print()
    for samples in args.samples:
        print(shares(trained, n_words, samples), flush=True)
    print("\nin float64, eps 1e-12:")
    print(compare(exactly(trained), min(n_words, 16), 1))


if __name__ == "__main__":
    main()
