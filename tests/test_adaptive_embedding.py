"""AdaptiveEmbedding against golden arrays, a word-by-word oracle and finite differences; check_bins' messages."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call

from utils.adaptive_embedding import AdaptiveEmbedding, check_bins

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


def random_embedding(layout):
    generator = torch.Generator().manual_seed(0)
    embedding = AdaptiveEmbedding(*layout).double()
    for parameter in embedding.parameters():
        parameter.data.normal_(generator=generator)
    return embedding


def embed_word(embedding, word, d_model, cutoffs, div_val):
    """One word's vector, by the definition."""
    i = sum(word >= cutoff for cutoff in cutoffs) if div_val > 1 else 0
    low = (0, *cutoffs)[i]
    vector = embedding.emb_layers[i].weight[word - low]
    if embedding.emb_projs:
        vector = embedding.emb_projs[i].weight @ vector
    return math.sqrt(d_model) * vector


@pytest.mark.parametrize("name", ["wnorm", "plain", "divval1", "nocut"])
def test_golden(name):
    settings = json.loads((GOLDEN / f"model_{name}.json").read_text())
    arrays = np.load(GOLDEN / f"model_{name}.npz")
    state = torch.load(GOLDEN / f"model_{name}.pkl", weights_only=True)
    embedding = AdaptiveEmbedding(*(settings[key] for key in ("n_token", "d_embed", "d_model", "cutoffs", "div_val")))
    prefix = "word_emb."
    embedding.double().load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    out = embedding(torch.from_numpy(arrays["emb_tokens"]))
    np.testing.assert_allclose(out.detach().numpy(), arrays["emb_out"][0], rtol=0, atol=1e-12)


def test_names_and_shapes_of_the_published_model():
    with torch.device("meta"):
        embedding = AdaptiveEmbedding(267735, 700, 700, (20000, 40000, 200000), 4)
    assert {name: tuple(value.shape) for name, value in embedding.state_dict().items()} == {
        "emb_layers.0.weight": (20000, 700),
        "emb_layers.1.weight": (20000, 175),
        "emb_layers.2.weight": (160000, 43),
        "emb_layers.3.weight": (67735, 10),
        "emb_projs.0.weight": (700, 700),
        "emb_projs.1.weight": (700, 175),
        "emb_projs.2.weight": (700, 43),
        "emb_projs.3.weight": (700, 10),
    }


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (LAYOUTS["one width"], {"emb_layers.0.weight": (23, 6)}),
        (LAYOUTS["one width, projected"], {"emb_layers.0.weight": (23, 8), "emb_projs.0.weight": (6, 8)}),
        (LAYOUTS["one bin"], {"emb_layers.0.weight": (23, 6)}),
    ],
)
def test_names_with_a_single_table(layout, names):
    state = AdaptiveEmbedding(*layout).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == names


def test_every_word_has_the_vector_of_the_definition(layout):
    n_token, _, d_model, cutoffs, div_val = layout
    embedding = random_embedding(layout)
    expected = torch.stack([embed_word(embedding, word, d_model, cutoffs, div_val) for word in range(n_token)])
    torch.testing.assert_close(embedding(torch.arange(n_token)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3), (2, 1, 3)])
def test_any_shape_of_tokens(shape):
    embedding = random_embedding(LAYOUTS["bins"])
    tokens = torch.randint(23, shape, generator=torch.Generator().manual_seed(1))
    out = embedding(tokens)
    assert out.shape == (*shape, 6)
    torch.testing.assert_close(out.reshape(-1, 6), embedding(tokens.reshape(-1)))


def test_gradients_agree_with_finite_differences(layout):
    embedding = random_embedding(layout)
    tokens = torch.randint(layout[0], (2, 3), generator=torch.Generator().manual_seed(2))
    names, values = zip(*embedding.named_parameters(), strict=True)

    def run(*parameters):
        return functional_call(embedding, dict(zip(names, parameters, strict=True)), (tokens,))

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


def test_bins_without_tokens_get_zero_gradients():
    embedding = random_embedding(LAYOUTS["bins"])
    embedding(torch.tensor([1, 3, 3])).sum().backward()
    assert embedding.emb_layers[0].weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [1, 3]
    for module in (embedding.emb_layers, embedding.emb_projs):
        for i in (1, 2):
            assert module[i].weight.grad.abs().max() == 0


def test_a_token_outside_the_vocabulary_is_refused(layout):
    for token in (-1, layout[0]):
        with pytest.raises(IndexError):
            random_embedding(layout)(torch.tensor([0, token]))


def test_a_new_module_is_small_and_random():
    weight = AdaptiveEmbedding(1000, 64, 64, (200,), 2).emb_layers[0].weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("n_token", "cutoffs", "d_embed", "div_val", "parts"),
    [
        (100, (20, 20), 8, 2, ["`cutoffs`", "20 20", "rise"]),
        (100, (50, 20), 8, 2, ["`cutoffs`", "50 20", "rise"]),
        (100, (0, 20), 8, 2, ["`cutoffs`", "0 20", "positive"]),
        (100, (-5,), 8, 2, ["`cutoffs`", "-5", "positive"]),
        (100, (20, 100), 8, 2, ["`cutoffs`", "20 100", "100 words", "smaller"]),
        (100, (20, 50), 8, 3, ["`div_val` is 3", "`d_embed` 8", "width 0", "smaller `div_val`"]),
        (100, (20,), 8, 0, ["`div_val` is 0", "pass 1"]),
        (100, (20,), 0, 1, ["`d_embed` is 0", "at least 1"]),
    ],
)
def test_check_bins_names_flag_value_and_remedy(n_token, cutoffs, d_embed, div_val, parts):
    with pytest.raises(ValueError, match="`") as caught:
        check_bins(n_token, cutoffs, d_embed, div_val)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message
    with pytest.raises(ValueError, match=re.escape(message)):
        AdaptiveEmbedding(n_token, d_embed, 8, cutoffs, div_val)


@pytest.mark.parametrize("cutoffs", [(), (1,), (99,), (20, 99)])
def test_check_bins_accepts_bins_of_any_width_down_to_one(cutoffs):
    check_bins(100, cutoffs, d_embed=9, div_val=3)
