"""Trained models so small that a solve takes milliseconds; their weights are random ones whose solves converge."""

import contextlib
import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch
from tiny_run import COMMAND, LENGTHS, MODEL, Outcome

from data.vocabulary import Vocab, VocabularyRule
from evaluation.trained_model import TrainedModel

SOLVES = "--solver broyden --f_thres 100 --f_eps 1e-10"


def trained_model(further: str = "", *, n_words: int = 20, lower_case: bool = False, seed: int = 5) -> TrainedModel:
    """A DEQ-Transformer in float64 over `<eos>`, `<unk>` and the words w2, w3, …, with these further flags."""
    settings = COMMAND.parse(f"--dataset text --not_tied {MODEL} {LENGTHS} {SOLVES} {further}".split())
    spec = COMMAND.spec
    torch.manual_seed(seed)
    model = spec.build(spec.configure(settings, n_words)).double().eval()
    for name, parameter in model.named_parameters():
        gain = 0.15 if name.startswith("func.") else 1.0
        torch.nn.init.normal_(parameter, std=gain if "emb_layers" in name else gain / math.sqrt(parameter.shape[-1]))
    vocab = Vocab(["<eos>", "<unk>", *(f"w{i}" for i in range(2, n_words))])
    return TrainedModel(model, vocab, VocabularyRule(("train",), lower_case), settings, (), Path("no file"))


def call_program(main: Callable[[Sequence[str]], int], arguments: str | list[str], stdin: bytes = b"") -> Outcome:
    """Run a program's main with these arguments, and what is on its standard input."""
    words = arguments.split() if isinstance(arguments, str) else arguments
    out, err, given = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(stdin))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "stdin", given):
        status = main(words)
    return Outcome(status, out.getvalue(), err.getvalue(), None)
