"""The models of the synthetic tasks: their sizes, what their positions see, and how they start."""

from dataclasses import replace

import pytest
import torch

from modules.depth import Applications
from synthetic.explicit import ExplicitLM
from synthetic.models import MODELS, build, n_parameters
from synthetic.recipes import RECIPES
from synthetic.scoring import score
from synthetic.settings import DEQ_MODELS, completed
from synthetic.task import Examples
from synthetic.tasks import TASKS

DEPTH = Applications(6)  # a solve ends with the best of the whole batch, which all positions have their part in


def made(model, **given):
    settings = completed({"model": model, **given})
    torch.manual_seed(0)
    return build(settings, TASKS[settings.task](settings).n_token)


@pytest.mark.parametrize("name", MODELS)
def test_copy_memory_has_models_of_the_published_size(name):
    low, high = (15_500, 16_500) if name == "tcn" else (12_500, 14_500)
    assert low <= n_parameters(made(name)) <= high


def test_sizes_by_formula():
    d, inner, v = 32, 64, 10
    cell = 8 * d * d + 6 * d + 2 * d * inner + inner
    assert n_parameters(made("deq_transformer")) == cell + d + v * d + v - d + d  # embedding and bias of the softmax
    h, e = 52, 10
    assert n_parameters(made("lstm")) == 4 * h * (h + e + 2) + v * e + v * h + v
    h = 60
    assert n_parameters(made("gru")) == 3 * h * (h + e + 2) + v * e + v * h + v
    c, k, n = 11, 8, 8
    assert n_parameters(made("tcn")) == 2 * n * (c * c * k + 2 * c) + 2 * v * c + v


@pytest.mark.parametrize("name", MODELS)
def test_no_position_sees_a_later_one_and_all_see_the_first(name):
    model = made(name, kernel_size=3, n_layer=4, d_model=8, d_embed=5, n_head=2, init_std=0.5).double().eval()
    if name == "deq_trellisnet":  # its weights start too small to see where an effect ends
        torch.nn.init.normal_(model.trellisnet.func.full_conv.weight_g, std=2.0)
    length = 12
    tokens = torch.randint(10, (length, 2), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model.hidden(tokens, None, DEPTH).states
        for changed in range(length):
            other = tokens.clone()
            other[changed] = (other[changed] + 1) % 10
            after = model.hidden(other, None, DEPTH).states
            assert before.shape[:2] == (length, 2)
            assert torch.allclose(before[:changed], after[:changed], rtol=0, atol=1e-12)
            assert (before[changed] - after[changed]).abs().amax() > 1e-6
        other = tokens.clone()
        other[0] = (other[0] + 1) % 10
        changes = (before - model.hidden(other, None, DEPTH).states).abs().amax(dim=(1, 2))
        assert changes.gt(1e-12).all()


def test_a_tcn_reaches_as_far_as_it_says():
    model = made("tcn", kernel_size=3, n_layer=2, d_model=4).double()
    assert model.reach == 13
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.abs_()  # no ReLU is off
    embedded = torch.ones(20, 1, 4, dtype=torch.float64, requires_grad=True)
    model.states(embedded)[-1].sum().backward()
    seen = embedded.grad.abs().amax(dim=(1, 2)) > 0
    assert seen.tolist() == [False] * 7 + [True] * 13


@pytest.mark.parametrize("name", MODELS)
def test_depth_and_memory_matter_to_an_equilibrium_alone(name):
    model = made(name).eval()
    assert (name in DEQ_MODELS) == (not isinstance(model, ExplicitLM))
    tokens = torch.randint(10, (6, 2))
    with torch.no_grad():
        once, often = (model.hidden(tokens, None, Applications(n)).states for n in (1, 5))
        f, z0 = model.problem(tokens, None)
        assert f(z0).shape == z0.shape
        hidden = f(z0)[:, :, : made(name).trellisnet.func.width] if name == "deq_trellisnet" else f(z0)
        output = hidden[:, :, -once.shape[2] :]
        assert torch.allclose(output.transpose(0, 1), once, atol=1e-6)
    assert once.equal(often) == (name not in DEQ_MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_all_parameters_learn(name):
    model = made(name)
    tokens = torch.randint(10, (6, 2))
    model(tokens, tokens, None, Applications(2)).nll.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_score_counts_what_counts():
    model = made("lstm").requires_grad_(False)
    tokens = torch.randint(10, (6, 3))
    counted = torch.zeros(6, 3, dtype=torch.bool)
    counted[4:, 1:] = True
    examples = Examples(tokens, tokens.flip(0), counted)
    result = score(model, examples, Applications(1))
    log_p = model.head.log_prob(model.hidden(tokens, None, Applications(1)).states.flatten(0, 1)).view(6, 3, 10)
    nll, n_right = 0.0, 0
    for position in (4, 5):
        for row in (1, 2):
            target = examples.targets[position, row]
            nll -= float(log_p[position, row, target])
            n_right += int(log_p[position, row].argmax() == target)
    assert float(result.nll) == pytest.approx(nll, rel=1e-5)
    assert (int(result.n_right), int(result.n_counted)) == (n_right, 4)
    wholly = replace(examples, counted=torch.ones_like(counted))
    assert float(score(model, wholly, Applications(1)).nll) > nll


def test_recipes_name_tasks_models_and_settings_that_there_are():
    for (task, model), values in RECIPES.items():
        assert task in TASKS
        assert model in MODELS
        settings = completed({"task": task, "model": model})
        assert all(getattr(settings, name) == value for name, value in values.items())
