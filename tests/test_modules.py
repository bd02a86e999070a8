"""Small parts: dropout masks, weight normalisation, positions, initial values."""

import pytest
import torch

from models.transformers.config import DEQTransformerConfig
from models.transformers.initialisation import initialise_parameters
from models.transformers.model import DEQTransformerLM
from modules.optimizations import NormalizableLinear, masked, variational_mask
from utils.positional_embedding import PositionalEmbedding


def test_mask_is_shared_where_its_shape_says_so():
    torch.manual_seed(0)
    like = torch.zeros(1, dtype=torch.float64)
    mask = variational_mask((200, 1, 50), 0.3, like, training=True)
    assert mask.dtype == torch.float64
    assert set(mask.unique().tolist()) == {0.0, 1 / 0.7}
    assert (mask == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
    x = torch.ones(200, 4, 50, dtype=torch.float64)
    assert torch.equal(masked(x, mask), mask.expand_as(x))


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_no_mask_where_nothing_is_dropped(p, training):
    state = torch.get_rng_state()
    assert variational_mask((3,), p, torch.zeros(1), training=training) is None
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.ones(3)
    assert masked(x, None) is x


@pytest.mark.parametrize("kernel_dims", [0, 1])
def test_weight_norm_separates_length_and_direction(kernel_dims):
    layer = NormalizableLinear(5, 7, bias=True, wnorm=True, kernel_dims=kernel_dims).double()
    assert layer.weight_v.shape == (7, 5, *(1,) * kernel_dims)
    assert layer.weight_g.shape == (7, 1, *(1,) * kernel_dims)
    torch.testing.assert_close(layer.matrix(), layer.weight_v.flatten(1), rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        layer.weight_v.mul_(3.0)
        layer.weight_g.fill_(2.0)
    torch.testing.assert_close(layer.matrix().norm(dim=1), torch.full((7,), 2.0, dtype=torch.float64))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ layer.matrix().t() + layer.bias)
    assert torch.autograd.gradcheck(
        lambda g, v: v.flatten(1) * g.flatten(1) / v.flatten(1).norm(dim=1, keepdim=True),
        (layer.weight_g, layer.weight_v),
    )


def test_plain_linear_holds_a_weight():
    layer = NormalizableLinear(5, 7, bias=False, wnorm=False, kernel_dims=1)
    assert {name for name, _ in layer.named_parameters()} == {"weight"}
    assert layer.weight.shape == (7, 5, 1)
    assert layer.bias is None


def test_positions_are_sines_and_cosines_of_the_distance():
    embedding = PositionalEmbedding(6).double()
    table = embedding(4)
    for row, distance in enumerate((3, 2, 1, 0)):
        angles = [distance * 10000 ** (-2 * i / 6) for i in range(3)]
        expected = torch.tensor(angles, dtype=torch.float64)
        torch.testing.assert_close(table[row], torch.cat([expected.sin(), expected.cos()]), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="d_model is 5"):
        PositionalEmbedding(5)


def initialized(wnorm=False, **options):
    torch.manual_seed(0)
    config = DEQTransformerConfig(
        n_token=400, n_head=2, d_head=20, d_model=40, d_inner=300, d_embed=40, cutoffs=(200,), div_val=2, wnorm=wnorm
    )
    model = DEQTransformerLM(config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {
        "init": "normal",
        "init_range": 0.05,
        "init_std": 0.02,
        "proj_init_std": 0.03,
        "emb_init": "normal",
        "emb_init_range": 0.01,
    }
    initialise_parameters(model, **(settings | options))
    return dict(model.named_parameters()), before


def test_initial_values():
    parameters, _ = initialized()
    for name, parameter in parameters.items():
        if name.endswith("bias") and "r_" not in name:
            assert not parameter.any(), name
            continue
        if parameter.numel() < 20:
            continue  # too few draws to tell
        std = 0.03 if "_projs" in name else 0.02
        assert parameter.std().item() == pytest.approx(std, rel=0.4), name
        assert abs(parameter.mean().item()) < 0.4 * std, name


def test_uniform_initialisers():
    parameters, _ = initialized(init="uniform", emb_init="uniform")
    assert parameters["word_emb.emb_layers.0.weight"].abs().max().item() == pytest.approx(0.01, rel=0.01)
    assert parameters["func.pos_ff.ff1_net.weight"].abs().max().item() == pytest.approx(0.05, rel=0.01)
    with pytest.raises(ValueError, match="'zeros': choose one of normal, uniform"):
        initialized(init="zeros")


def test_normalised_weights_keep_their_default_values():
    parameters, before = initialized(wnorm=True)
    normalised = [name for name in parameters if name.endswith(("weight_g", "weight_v"))]
    assert len(normalised) == 10
    for name in normalised:
        assert torch.equal(parameters[name], before[name])
    assert not torch.equal(parameters["inject_conv.weight"], before["inject_conv.weight"])
