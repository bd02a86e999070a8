"""ProjectedAdaptiveLogSoftmax against golden arrays, a hierarchical softmax by definition, and finite differences."""

import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax

GOLDEN = Path(__file__).parent / "golden"
# (n_token, d_embed, d_model, cutoffs, div_val)
LAYOUTS = {
    "bins": (23, 8, 6, (5, 12), 2),
    "bins of one word": (3, 8, 8, (1, 2), 2),
    "one width": (23, 6, 6, (5, 12), 1),
    "one width, projected": (23, 8, 6, (5, 12), 1),
    "one bin": (23, 6, 6, (), 1),
    "one bin, projected": (23, 6, 6, (), 2),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request):
    return request.param


def random_softmax(layout, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    softmax = ProjectedAdaptiveLogSoftmax(*layout).double()
    for parameter in softmax.parameters():
        parameter.data.normal_(generator=generator).mul_(scale)
    return softmax


def random_hidden(n, d_model):
    return torch.randn(n, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def log_probabilities(softmax, hidden, layout):
    """log p of every word for one hidden state (D,), by the definition, in NumPy."""
    n_token, _, _, cutoffs, div_val = layout
    edges = (0, *cutoffs, n_token)
    state = {name: value.detach().double().numpy() for name, value in softmax.state_dict().items()}

    def logits(i):
        table, rows = (0, slice(edges[i], edges[i + 1])) if div_val == 1 else (i, slice(None))
        projected = hidden @ state[f"out_projs.{i}.weight"] if "out_projs.0.weight" in state else hidden
        weight, bias = state[f"out_layers.{table}.weight"][rows], state[f"out_layers.{table}.bias"][rows]
        return projected, weight @ projected + bias

    def log_softmax(x):
        return x - x.max() - math.log(np.exp(x - x.max()).sum())

    projected, head = logits(0)
    if cutoffs:
        head = np.concatenate([head, state["cluster_weight"] @ projected + state["cluster_bias"]])
    head = log_softmax(head)
    tails = [head[-i] + log_softmax(logits(i)[1]) for i in range(1, len(cutoffs) + 1)]
    return np.concatenate([head[: edges[1]], *tails])


@pytest.mark.parametrize("name", ["wnorm", "plain", "divval1", "nocut"])
def test_golden(name):
    settings = json.loads((GOLDEN / f"model_{name}.json").read_text())
    arrays = np.load(GOLDEN / f"model_{name}.npz")
    state = torch.load(GOLDEN / f"model_{name}.pkl", weights_only=True)
    sizes = [settings[key] for key in ("n_token", "d_embed", "d_model", "cutoffs", "div_val")]
    softmax = ProjectedAdaptiveLogSoftmax(*sizes).double()
    softmax.load_state_dict({k.removeprefix("crit."): v for k, v in state.items() if k.startswith("crit.")})
    nll = softmax(torch.from_numpy(arrays["crit_hidden"]), torch.from_numpy(arrays["crit_target"]))
    np.testing.assert_allclose(nll.detach().numpy(), arrays["crit_nll"], rtol=0, atol=1e-12)


def test_names_and_shapes_of_the_published_model():
    with torch.device("meta"):
        softmax = ProjectedAdaptiveLogSoftmax(267735, 700, 700, (20000, 40000, 200000), 4)
    tables = [(20000, 700), (20000, 175), (160000, 43), (67735, 10)]
    expected = {"cluster_weight": (3, 700), "cluster_bias": (3,)}
    for i, (size, width) in enumerate(tables):
        expected |= {f"out_layers.{i}.weight": (size, width), f"out_layers.{i}.bias": (size,)}
        expected[f"out_projs.{i}.weight"] = (700, width)
    assert {name: tuple(value.shape) for name, value in softmax.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("name", "projections", "clusters"),
    [("one width", [], True), ("one width, projected", [(6, 8)] * 3, True), ("one bin", [], False)],
)
def test_names_with_a_single_table(name, projections, clusters):
    n_token, d_embed, _, cutoffs, _ = LAYOUTS[name]
    expected = {"out_layers.0.weight": (n_token, d_embed), "out_layers.0.bias": (n_token,)}
    expected |= {f"out_projs.{i}.weight": shape for i, shape in enumerate(projections)}
    if clusters:
        expected |= {"cluster_weight": (len(cutoffs), d_embed), "cluster_bias": (len(cutoffs),)}
    state = ProjectedAdaptiveLogSoftmax(*LAYOUTS[name]).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def test_every_word_has_the_probability_of_the_definition(layout):
    n_token, _, d_model, _, _ = layout
    softmax = random_softmax(layout)
    hidden = random_hidden(3, d_model)
    expected = np.stack([log_probabilities(softmax, row, layout) for row in hidden.numpy()])
    log_prob = softmax.log_prob(hidden).detach()
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(log_prob.exp().sum(1).numpy(), 1, rtol=0, atol=1e-12)
    # In an order that is not the bins', each row with every target.
    order = torch.randperm(3 * n_token, generator=torch.Generator().manual_seed(2))
    rows, targets = order // n_token, order % n_token
    nll = softmax(hidden[rows], targets).detach()
    np.testing.assert_allclose(nll.numpy(), -expected[rows, targets], rtol=0, atol=1e-12)


def test_gradients_agree_with_finite_differences(layout):
    softmax = random_softmax(layout)
    hidden = random_hidden(4, layout[2]).requires_grad_()
    targets = torch.tensor([layout[0] - 1, 0, layout[0] // 2, layout[0] - 1])
    names, values = zip(*softmax.named_parameters(), strict=True)

    def run(hidden, *parameters):
        return functional_call(softmax, dict(zip(names, parameters, strict=True)), (hidden, targets))

    assert torch.autograd.gradcheck(run, (hidden, *values), fast_mode=True)


@pytest.mark.parametrize("targets", [[], [4, 0], [22, 15, 15], [3, 7]])
def test_bins_without_targets_take_part_with_zero_gradients(targets):
    softmax = random_softmax(LAYOUTS["bins"])
    hidden = random_hidden(len(targets), 6)
    nll = softmax(hidden, torch.tensor(targets, dtype=torch.int64))
    assert nll.shape == (len(targets),)
    nll.sum().backward()
    assert all(parameter.grad is not None for parameter in softmax.parameters())
    for i, (low, high) in enumerate([(0, 5), (5, 12), (12, 23)]):
        used = any(low <= target < high for target in targets) or (i == 0 and targets)
        for parameter in (softmax.out_layers[i].weight, softmax.out_layers[i].bias, softmax.out_projs[i].weight):
            assert bool(parameter.grad.abs().max() > 0) == bool(used)


def test_only_the_tokens_of_a_bin_pass_through_it():
    softmax = random_softmax(LAYOUTS["bins"])
    with FlopCounterMode(display=False) as counter:
        softmax(random_hidden(10, 6), torch.tensor([0, 1, 2, 3, 4, 0, 1, 6, 20, 21]))
    head, first, second = 10 * (6 * 8 + 8 * 7), 1 * (6 * 4 + 4 * 7), 2 * (6 * 2 + 2 * 11)
    assert counter.get_total_flops() == 2 * (head + first + second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_of_ten_thousand(dtype):
    layout = LAYOUTS["bins"]
    softmax = random_softmax(layout, scale=10.0).to(dtype)
    hidden = (random_hidden(23, 6) * 40).to(dtype).requires_grad_()
    assert (hidden @ softmax.out_projs[0].weight @ softmax.out_layers[0].weight.T).abs().max() > 1e4
    targets = torch.arange(23)
    nll = softmax(hidden, targets)
    expected = [log_probabilities(softmax, row, layout)[i] for i, row in enumerate(hidden.detach().double().numpy())]
    np.testing.assert_allclose(nll.detach().numpy(), -np.array(expected), rtol=1e-5, atol=1e-2)
    nll.mean().backward()
    assert hidden.grad.isfinite().all()


def test_targets_in_a_bin_of_vanishing_probability():
    softmax = random_softmax(LAYOUTS["bins"]).float()
    softmax.cluster_bias.data.fill_(-1e4)
    hidden = random_hidden(2, 6).float().requires_grad_()
    nll = softmax(hidden, torch.tensor([6, 20]))
    nll.sum().backward()
    np.testing.assert_allclose(nll.detach().numpy(), 1e4, rtol=0.01)
    assert hidden.grad.isfinite().all()
    assert hidden.grad.abs().max() > 0


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_half_precision_adds_up_in_float32(how):
    layout = (6000, 32, 32, (3000,), 2)
    softmax = random_softmax(layout, scale=0.1)
    hidden = random_hidden(40, 32)
    targets = torch.arange(0, 6000, 150)
    expected = softmax(hidden, targets).detach()
    softmax.to(torch.bfloat16 if how == "bfloat16" else torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        low = hidden.to(softmax.cluster_weight.dtype).requires_grad_()
        nll = softmax(low, targets)
        log_prob = softmax.log_prob(low)
    assert nll.dtype == log_prob.dtype == torch.float32
    assert (nll - expected).abs().max() < 0.05
    # In bfloat16 a sum over 3,000 words would stop growing near 256: log 3000 − log 256 = 2.5 too low.
    assert (nll - expected).mean().abs() < 0.005
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(40), rtol=0, atol=1e-4)
    nll.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in softmax.parameters())


def test_a_target_outside_the_vocabulary_is_refused(layout):
    for target in (-100, -1, layout[0]):
        with pytest.raises(ValueError, match=f"0 … {layout[0] - 1}"):
            random_softmax(layout)(random_hidden(2, layout[2]), torch.tensor([1, target]))


def test_bins_are_checked():
    with pytest.raises(ValueError, match="`cutoffs`"):
        ProjectedAdaptiveLogSoftmax(100, 8, 8, (50, 20), 2)


def test_a_new_module_is_nearly_uniform():
    softmax = ProjectedAdaptiveLogSoftmax(1000, 64, 64, (200,), 2)
    nll = softmax(torch.randn(20, 64, generator=torch.Generator().manual_seed(4)), torch.arange(20))
    torch.testing.assert_close(nll, torch.full((20,), math.log(201)), rtol=0, atol=0.05)


def tied(layout):
    modules = nn.ModuleDict({"emb": AdaptiveEmbedding(*layout), "crit": ProjectedAdaptiveLogSoftmax(*layout)})
    modules["crit"].tie(modules["emb"])
    return modules


def assert_tied(modules):
    embedding, softmax = modules["emb"], modules["crit"]
    for layer, source in zip(softmax.out_layers, embedding.emb_layers, strict=True):
        assert layer.weight is source.weight
    n_projections = len(embedding.emb_projs)
    for i, projection in enumerate(softmax.out_projs):
        if i == 0:
            assert all(projection.weight is not source.weight for source in embedding.emb_projs)
        else:
            assert projection.weight is embedding.emb_projs[i if n_projections > 1 else 0].weight


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m.to(torch.float64),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())) and m,
    ],
    ids=["as made", "to", "deepcopy", "pickle", "load_state_dict"],
)
def test_ties_survive(layout, change):
    assert_tied(change(tied(layout)))


@pytest.mark.parametrize(("name", "n_saved"), [("bins", 3 + 2), ("one width", 1), ("one width, projected", 1 + 2)])
def test_a_tied_parameter_is_counted_once_and_stored_under_both_names(name, n_saved):
    layout = LAYOUTS[name]
    modules = tied(layout)
    apart = [*AdaptiveEmbedding(*layout).parameters(), *ProjectedAdaptiveLogSoftmax(*layout).parameters()]
    assert len(list(modules.parameters())) == len(apart) - n_saved
    assert len(modules.state_dict()) == len(apart)


def test_a_tied_gradient_is_the_sum_over_both_uses():
    tokens, targets = torch.tensor([1, 6, 13, 22]), torch.tensor([7, 0, 22, 3])

    def gradients(modules):
        modules.double()
        modules["crit"](modules["emb"](tokens), targets).sum().backward()
        return {name: parameter.grad for name, parameter in modules.named_parameters(remove_duplicate=False)}

    together = tied(LAYOUTS["bins"])
    apart = tied(LAYOUTS["bins"])
    apart["crit"] = ProjectedAdaptiveLogSoftmax(*LAYOUTS["bins"])
    apart.load_state_dict(together.state_dict())
    one, two = gradients(together), gradients(apart)
    for i in range(3):
        emb, out = f"emb.emb_layers.{i}.weight", f"crit.out_layers.{i}.weight"
        torch.testing.assert_close(one[emb], two[emb] + two[out])
    for i in range(1, 3):
        emb, out = f"emb.emb_projs.{i}.weight", f"crit.out_projs.{i}.weight"
        torch.testing.assert_close(one[emb], two[emb] + two[out])
    torch.testing.assert_close(one["emb.emb_projs.0.weight"], two["emb.emb_projs.0.weight"])


def test_an_embedding_of_other_sizes_cannot_be_tied():
    with pytest.raises(ValueError, match="shapes"):
        ProjectedAdaptiveLogSoftmax(23, 8, 8, (5, 12), 2).tie(AdaptiveEmbedding(23, 8, 8, (6, 12), 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same(layout):
    modules = tied(layout).double()
    tokens = torch.randint(layout[0], (50,), generator=torch.Generator().manual_seed(5))
    results = []
    for device in ("cpu", "cuda"):
        modules.to(device).zero_grad()
        nll = modules["crit"](modules["emb"](tokens.to(device)), tokens.flip(0).to(device))
        nll.sum().backward()
        results.append([nll.detach().cpu(), *(parameter.grad.cpu() for parameter in modules.parameters())])
    assert_tied(modules)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-10)
