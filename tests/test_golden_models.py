"""The language model gives the original's losses, gradients and memory, for whatever models lie in `golden`."""

import re

import numpy as np
import pytest
import torch
from golden_models import IN_OLDER_LAYOUT, NAMES, GoldenModel

from models.transformers.attention import Positions, visibility
from modules.depth import Applications
from modules.deq import DEQModule

TIGHT = DEQModule(solver="broyden", f_thres=200, b_thres=200, f_eps=1e-12, b_eps=1e-12)


def published(solver: str) -> DEQModule:
    return DEQModule(solver=solver, f_thres=60, b_thres=60, f_options={"lam": 1e-4} if solver == "anderson" else {})


def run(golden, model, depth, *, gradients_of=None):
    """Losses of the segments, the last memory, and the gradients of one segment's loss by parameter name."""
    memory, losses, gradients = None, [], {}
    for i, (tokens, targets) in enumerate(golden.segments()):
        output = model(tokens, targets, memory, depth)
        memory = output.memory
        losses.append(output.nll.mean().item())
        if i == gradients_of:
            output.nll.mean().backward()
            gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return losses, memory, gradients


def assert_losses(losses, expected, tolerance):
    assert expected
    assert losses[: len(expected)] == pytest.approx(expected, rel=tolerance)


def solved_kinds():
    """(model, solver, mode) of every run that there are losses of."""
    for name in NAMES:
        kinds = {re.match(r"(\w+)_(eval|train)_seg0_loss$", entry) for entry in GoldenModel(name).arrays.files}
        yield from ((name, *kind.groups()) for kind in sorted(filter(None, kinds), key=str))


@pytest.mark.parametrize(("name", "solver", "mode"), [*solved_kinds()])
def test_losses_and_memory_are_the_originals(name, solver, mode):
    golden = GoldenModel(name)
    with torch.set_grad_enabled(mode == "train"):
        losses, memory, _ = run(golden, golden.build().train(mode == "train"), published(solver))
    expected = golden.numbered(f"{solver}_{mode}_seg{{}}_loss")
    assert_losses(losses, expected, 1e-6)
    assert len(expected) == len(losses)
    last = len(losses) - 1
    for part in ("z", "u"):
        wanted = golden.tensor(f"{solver}_{mode}_seg{last}_mem_{part}").transpose(0, 1)
        torch.testing.assert_close(getattr(memory, part), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", ["tight", "shallow"])
def test_exact_losses_and_gradients_are_the_originals(name, stage):
    """Solved tightly, and in the shallow stage."""
    golden, model = GoldenModel(name), GoldenModel(name).build()
    (segment,) = {
        int(match[1]) for entry in golden.arrays.files if (match := re.match(rf"{stage}_seg(\d+)_grad_", entry))
    }
    depth = TIGHT if stage == "tight" else Applications(golden.n_layer)
    losses, _, gradients = run(golden, model, depth, gradients_of=segment)
    assert_losses(losses, golden.numbered(f"{stage}_seg{{}}_loss"), 1e-9)
    expected = golden.gradients(f"{stage}_seg{segment}_grad_", model)
    assert gradients.keys() == expected.keys()
    for parameter, gradient in gradients.items():
        error = np.abs(gradient - expected[parameter]).max()
        assert error <= 1e-6 * np.abs(expected[parameter]).max(), parameter


@pytest.mark.parametrize("name", NAMES)
def test_cell_is_the_originals(name):
    golden = GoldenModel(name)
    model = golden.build()
    z, u, memory, positions = (golden.tensor(f"cell_{part}").transpose(1, 2) for part in ("z", "u", "mem", "pos"))
    n_query, n_memory, horizon = z.shape[1], memory.shape[1], model.config.horizon

    def f(n_memory):
        n_key = n_memory + n_query
        places = Positions(positions[0, -n_key:], visibility(n_query, n_memory, horizon, z))
        return model.func(z, model.func.context(memory[:, :n_memory], u[:, -n_key:], places)).transpose(1, 2)

    with torch.no_grad():
        torch.testing.assert_close(f(n_memory), golden.tensor("cell_out"), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(f(0), golden.tensor("cell_out_nomem"), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.pos_emb(u.shape[1]), positions[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_embedding_and_softmax_are_the_originals(name):
    golden = GoldenModel(name)
    model = golden.build()
    with torch.no_grad():
        nll = model.head.nll(golden.tensor("crit_hidden"), golden.tensor("crit_target"))
        embedded = model.word_emb(golden.tensor("emb_tokens"))
    torch.testing.assert_close(nll, golden.tensor("crit_nll"), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(embedded, golden.tensor("emb_out").view_as(embedded), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", IN_OLDER_LAYOUT)
def test_older_layout_gives_the_same_losses(name):
    older = GoldenModel(name, older_layout=True)
    with torch.no_grad():
        losses, _, _ = run(older, older.build().eval(), published("broyden"))
    assert_losses(losses, older.numbered("broyden_eval_seg{}_loss"), 1e-6)
