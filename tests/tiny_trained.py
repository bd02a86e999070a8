"""Trained models so small that a solve takes milliseconds; their weights are random ones whose solves converge."""

import contextlib
import io
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch
from tiny_run import COMMAND, LENGTHS, MODEL, Outcome, write_corpus

import train_trellisnet
from config.flags import CommandLine
from data.vocabulary import Vocab, VocabularyRule
from evaluation.trained_model import TrainedModel
from runs.saved_model import ModelDescription
from system.state_dicts import load_state_dict, save_state_dict

SOLVES = "--solver broyden --f_thres 100 --f_eps 1e-10"
TRELLISNET: CommandLine = train_trellisnet.main.args[0]
TRELLISNET_SHAPE = "--d_embed 8 --nhid 6 --nout 8 --batch_size 4 --seq_len 8 --eval_tgt_len 8"


def trained_model(further: str = "", *, n_words: int = 20, lower_case: bool = False, seed: int = 5) -> TrainedModel:
    """A DEQ-Transformer in float64 over `<eos>`, `<unk>` and the words w2, w3, …, with these further flags."""
    rule = VocabularyRule(("train",), lower_case)
    return _trained(COMMAND, f"{MODEL} {LENGTHS} {further}", rule, n_words=n_words, seed=seed)


def trained_trellisnet(further: str = "", *, n_words: int = 20, seed: int = 5) -> TrainedModel:
    """Likewise a DEQ-TrellisNet."""
    return _trained(TRELLISNET, f"{TRELLISNET_SHAPE} {further}", VocabularyRule(("train",)), n_words=n_words, seed=seed)


def _trained(command: CommandLine, flags: str, rule: VocabularyRule, *, n_words: int, seed: int) -> TrainedModel:
    settings = command.parse(f"--dataset text --not_tied {SOLVES} {flags}".split())
    spec = command.spec
    torch.manual_seed(seed)
    model = spec.build(spec.configure(settings, n_words)).double().eval()
    for name, parameter in model.named_parameters():
        gain = 0.15 if name.startswith("func.") else 1.0
        torch.nn.init.normal_(parameter, std=gain if "emb_layers" in name else gain / math.sqrt(parameter.shape[-1]))
    vocab = Vocab(["<eos>", "<unk>", *(f"w{i}" for i in range(2, n_words))])
    return TrainedModel(model, vocab, rule, settings, command, (), Path("no file"))


def run_with_unk(run: Callable[..., Outcome], place: Path) -> Outcome:
    """A run on a corpus that has `<unk>`; `run` and `place` are the fixtures."""
    corpus = write_corpus(place / "rare")
    with open(corpus / "train.txt", "a", encoding="utf-8") as file:
        file.write("<unk> word1 <unk>\n")
    outcome = run("--data {place}/rare --solver broyden --max_step 12 --name rare")
    assert outcome.status == 0, outcome.err
    return outcome


def with_random_weights(run: Path, folder: Path) -> Path:
    """A copy of a run's folder whose model is sure of the next word: a few updates make it say all alike."""
    copy = shutil.copytree(run, folder)
    weights = load_state_dict(copy / "model_state_dict.pkl")
    random = torch.Generator().manual_seed(2)
    for name in ("word_emb.emb_layers.0.weight", "inject_conv.weight"):
        weights[name] = torch.randn(weights[name].shape, generator=random)
    weights["crit.out_layers.0.weight"] = weights["word_emb.emb_layers.0.weight"]
    description = ModelDescription.beside(copy / "model_state_dict.pkl")
    save_state_dict(weights, copy / "model_state_dict.pkl")
    description.write(copy / "model_state_dict.pkl")
    return copy


def call_program(main: Callable[[Sequence[str]], int], arguments: str | list[str], stdin: bytes = b"") -> Outcome:
    """Run a program's main with these arguments, and what is on its standard input."""
    words = arguments.split() if isinstance(arguments, str) else arguments
    out, err, given = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(stdin))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "stdin", given):
        status = main(words)
    return Outcome(status, out.getvalue(), err.getvalue(), None)
