"""TorchDEQ's language model: its losses, gradients and memory, from whatever set `golden/torchdeq_lm.*` holds.

TorchDEQ rounds attention's scores to float32, in float64 models too, where that moves losses by some 1e-10. The tests
round them likewise, and see what is left where they do not.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import call, write_corpus

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM, Memory
from models.transformers.torchdeq import from_torchdeq
from models.transformers.weights import DEQTransformerWeights
from modules.depth import Applications
from modules.deq import DEQModule
from system.state_dicts import load_into, load_state_dict

SET = Path(__file__).parent / "golden" / "torchdeq_lm"
OF_LOSSES, OF_GRADIENTS, OF_ROUNDING = 1e-10, 1e-8, 1e-7
GRADIENT = "train_seg1_grad_"


@pytest.fixture(scope="module")
def settings():
    return json.loads(SET.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def arrays():
    with np.load(SET.with_suffix(".npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def weights():
    return DEQTransformerWeights().modern(load_state_dict(SET.with_suffix(".pth")))


@pytest.fixture
def model(settings, weights):
    same = ("n_token", "n_head", "d_head", "d_model", "d_inner", "div_val", "mem_len")
    config = DEQTransformerConfig(
        **{name: settings[name] for name in same},
        d_embed=settings.get("d_embed", settings["d_model"]),
        cutoffs=tuple(settings["cutoffs"]),
        cell_layers=settings["n_layer"],
        wnorm=settings["norm_type"] == "weight_norm",
        pre_lnorm=True,
        norm_affine=True,
        heads_norm=True,
    )
    DEQTransformerWeights().check(weights, config)
    model = DEQTransformerLM(config).double()
    load_into(model, weights, SET)
    return model


@pytest.fixture
def rounded_scores(monkeypatch):
    exact = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda scores, dim: exact(scores.float().to(scores.dtype), dim))


def segments(settings, arrays):
    """(tokens, targets), (L, B) each."""
    tokens, length = arrays["tokens"], settings["tgt_len"]
    starts = range(0, len(tokens) - 1, length)
    return [(tokens[start : start + length], tokens[start + 1 : start + 1 + length]) for start in starts]


def run(model, pairs, depth):
    """The loss of each segment, the last memory, and the gradients of the second segment's loss by name."""
    memory, losses = None, []
    for i, (tokens, targets) in enumerate(pairs):
        output = model(tokens, targets, memory, depth)
        memory, loss = output.memory, output.nll.mean()
        losses.append(loss.item())
        if i == 1 and torch.is_grad_enabled():
            loss.backward()
    return losses, memory


def assert_like(losses, memory, mode, arrays, n_head, tolerance=OF_LOSSES):
    wanted = [float(arrays[f"{mode}_seg{i}_loss"]) for i in range(len(losses))]
    assert f"{mode}_seg{len(losses)}_loss" not in arrays
    assert losses == pytest.approx(wanted, rel=tolerance)
    of_theirs = Memory(arrays[f"{mode}_mem_z"], in_thirds(arrays[f"{mode}_mem_u"], n_head))
    for mine, theirs in zip(memory, of_theirs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def in_thirds(u, n_head):
    """Channels (head, which, channel) as (which, head, channel)."""
    return u.unflatten(2, (n_head, 3, -1)).transpose(2, 3).flatten(2)


def evaluated(model, settings, arrays):
    with torch.no_grad():
        return run(model.eval(), segments(settings, arrays), Applications(settings["steps"]))


def test_evaluation_is_theirs(model, settings, arrays, rounded_scores):
    assert_like(*evaluated(model, settings, arrays), "eval", arrays, settings["n_head"])


def test_a_published_file_is_evaluated(settings, tmp_path):
    n_words = settings["n_token"] - 1  # beside <eos>
    corpus = write_corpus(tmp_path, n_words=n_words)
    if n_words % 2:
        with open(corpus / "train.txt", "a", encoding="utf-8") as file:
            file.write("odd\n")
    numbers = {
        name: settings[name] for name in ("n_head", "d_model", "d_head", "d_inner", "div_val", "mem_len", "tgt_len")
    }
    flags = [f"--{name} {value}" for name, value in numbers.items()]
    flags += ["--adaptive --cutoffs", *settings["cutoffs"], "--wnorm" if settings["norm_type"] == "weight_norm" else ""]
    flags += [f"--pre_lnorm --norm_affine --heads_norm --cell_layers {settings['n_layer']}"]
    flags += [f"--depth {settings['steps']}"]
    file = SET.with_suffix(".pth")
    command = f"--data {corpus} --dataset text --eval --load {file} --eval_tgt_len {settings['tgt_len']}"
    evaluated = call(" ".join(map(str, (command, *flags))))
    assert evaluated.status == 0, evaluated.err
    assert f"shallow: {settings['steps']} applications of the cell" in evaluated.out
    refused = call(" ".join(map(str, (command, *flags[:-2]))))
    assert refused.status == 2
    for flag in ("norm_affine", "heads_norm", "cell_layers"):
        assert f"pass --{flag}" in refused.err


def test_without_their_rounding_of_scores_it_is_theirs_up_to_that(model, settings, arrays):
    assert_like(*evaluated(model, settings, arrays), "eval", arrays, settings["n_head"], OF_ROUNDING)


@pytest.mark.parametrize("how", ["applications", "unroll"])
def test_training_is_theirs(how, model, settings, arrays, rounded_scores):
    depth = {
        "applications": Applications(settings["steps"]),
        "unroll": DEQModule(solver="fixed_point", grad="unroll", f_thres=settings["steps"]),
    }[how]
    losses, memory = run(model.train(), segments(settings, arrays), depth)
    assert_like(losses, memory, "train", arrays, settings["n_head"])
    theirs = from_torchdeq(
        {name.removeprefix(GRADIENT): value for name, value in arrays.items() if name.startswith(GRADIENT)}
    )
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    assert theirs.keys() <= {name for aliases in names.values() for name in aliases}
    for parameter, aliases in names.items():
        given = [theirs[name] for name in aliases if name in theirs]
        assert given, f"no gradient of {aliases}"
        # tied embeddings have the sum of both uses under one name; tied projections have an entry for each
        wanted = torch.stack(given).sum(0)
        assert (parameter.grad - wanted).abs().max() <= OF_GRADIENTS * wanted.abs().max(), aliases
