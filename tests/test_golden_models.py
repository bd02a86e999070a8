"""The language model gives the original's losses, gradients and memory."""

import re

import numpy as np
import pytest
import torch
from golden_models import NAMES, GoldenModel


def run(golden, model, *, gradients_of=None, n_layer=None):
    """Losses of the three segments, the last memory, and the gradients of one segment's loss by parameter name."""
    memory, losses, gradients = None, [], {}
    for i, (tokens, targets) in enumerate(golden.segments()):
        output = model(tokens, targets, memory, n_layer=n_layer)
        memory = output.memory
        losses.append(output.nll.mean().item())
        if i == gradients_of:
            output.nll.mean().backward()
            gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return losses, memory, gradients


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["broyden", "anderson"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_and_memory_are_the_originals(name, solver, mode):
    golden = GoldenModel(name)
    model = golden.build(solver=solver, f_thres=60, b_thres=60, anderson_ridge=1e-4).train(mode == "train")
    with torch.set_grad_enabled(mode == "train"):
        losses, memory, _ = run(golden, model)
    for i, loss in enumerate(losses):
        assert loss == pytest.approx(float(golden.arrays[f"{solver}_{mode}_seg{i}_loss"]), rel=1e-6)
    for part in ("z", "u"):
        expected = golden.tensor(f"{solver}_{mode}_seg2_mem_{part}").transpose(0, 1)
        torch.testing.assert_close(getattr(memory, part), expected, rtol=1e-6, atol=1e-6)


def assert_golden_gradients(golden, stage, gradients):
    for name, gradient in gradients.items():
        expected = golden.arrays[f"{stage}_seg1_grad_{name}"]
        projection = re.fullmatch(r"word_emb\.emb_projs\.(\d+)\.weight", name)
        if projection and int(projection[1]) >= 1:  # one tied parameter here, two there
            expected = expected + golden.arrays[f"{stage}_seg1_grad_crit.out_projs.{projection[1]}.weight"]
        assert np.abs(gradient - expected).max() < 1e-6 * np.abs(expected).max(), name
    assert len(gradients) == len(set(golden_gradient_names(golden, stage)))


def golden_gradient_names(golden, stage):
    prefix = f"{stage}_seg1_grad_"
    for name in golden.arrays.files:
        tied = re.search(r"crit\.out_projs\.([1-9]\d*)\.weight$", name)
        if name.startswith(prefix) and not tied:
            yield name


@pytest.mark.parametrize("name", NAMES)
def test_tight_losses_and_gradients_are_the_originals(name):
    golden = GoldenModel(name)
    model = golden.build(solver="broyden", f_thres=200, b_thres=200, f_eps=1e-12, b_eps=1e-12)
    losses, _, gradients = run(golden, model, gradients_of=1)
    for i, loss in enumerate(losses):
        assert loss == pytest.approx(float(golden.arrays[f"tight_seg{i}_loss"]), rel=1e-9)
    assert_golden_gradients(golden, "tight", gradients)


@pytest.mark.parametrize("name", NAMES)
def test_shallow_stage_is_the_originals(name):
    golden = GoldenModel(name)
    losses, _, gradients = run(golden, golden.build(), gradients_of=1, n_layer=golden.settings["n_layer"])
    for i in range(2):
        assert losses[i] == pytest.approx(float(golden.arrays[f"shallow_seg{i}_loss"]), rel=1e-9)
    assert_golden_gradients(golden, "shallow", gradients)


@pytest.mark.parametrize("name", NAMES)
def test_cell_is_the_originals(name):
    golden = GoldenModel(name)
    cell = golden.build().func
    z, u, memory, positions = (golden.tensor(f"cell_{part}").transpose(1, 2) for part in ("z", "u", "mem", "pos"))
    length = z.shape[1]
    with torch.no_grad():
        with_memory = cell(z, cell.context(memory, u, positions[0]))
        without = cell(z, cell.context(memory[:, :0], u[:, -length:], positions[0, -length:]))
        own_positions = golden.build().pos_emb(u.shape[1])
    torch.testing.assert_close(with_memory.transpose(1, 2), golden.tensor("cell_out"), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(without.transpose(1, 2), golden.tensor("cell_out_nomem"), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own_positions, positions[0], rtol=1e-12, atol=1e-12)


def test_older_layout_gives_the_same_losses():
    older = GoldenModel("wnorm", weights="model_wnorm_2020_layout")
    with torch.no_grad():
        losses, _, _ = run(older, older.build(solver="broyden", f_thres=60).eval())
    for i, loss in enumerate(losses):
        assert loss == pytest.approx(float(older.arrays[f"broyden_eval_seg{i}_loss"]), rel=1e-6)
