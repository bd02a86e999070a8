"""The DEQ-Transformer's dropout, its parameters, what it leaves behind and what it refuses."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from tiny_transformer import TINY, batch, tiny

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM


def test_evaluation_draws_no_random_numbers():
    model = tiny(dropout=0.5, dropatt=0.5, f_thres=4).eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(*batch()).nll, model(*batch()).nll
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", [{"dropout": 0.4}, {"dropatt": 0.4}])
def test_dropout_draws_new_masks_at_each_forward(options):
    model = tiny(**options, f_thres=4).train()
    assert not torch.equal(model(*batch()).nll, model(*batch()).nll)


@pytest.mark.parametrize(("unit", "dim"), [("position", 2), ("channel", 1)])
def test_output_dropout_drops_whole_units(unit, dim, monkeypatch):
    model = tiny(dropout=0.5, out_dropout=unit).train()
    hidden = {}
    monkeypatch.setattr(model.crit, "nll", lambda h, targets: (hidden.update(h=h), h.sum(dim=1))[1])
    length, rows = 6, 3
    model(*batch(length, rows), n_layer=1)
    zero = hidden["h"].view(length, rows, -1).transpose(0, 1) == 0  # (B, L, D)
    whole = zero.all(dim=dim)
    assert 0 < whole.sum() < whole.numel()
    assert torch.equal(zero, whole.unsqueeze(dim).expand_as(zero))


def test_the_forward_leaves_nothing_behind():
    model = tiny(f_thres=4).train()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    output = model(*batch())
    alive = weakref.ref(output.nll)
    gc.collect()
    gc.disable()
    try:
        del output
        assert alive() is None
    finally:
        gc.enable()
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_copies_keep_ties_and_values():
    model = tiny(cutoffs=(10, 20), div_val=2, wnorm=True, f_thres=5).eval()
    tokens, targets = batch()
    with torch.no_grad():
        expected = model(tokens, targets).nll
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(tokens, targets).nll, expected)
            for i in range(3):
                assert other.crit.out_layers[i].weight is other.word_emb.emb_layers[i].weight
            assert other.crit.out_projs[0].weight is not other.word_emb.emb_projs[0].weight
            assert other.crit.out_projs[1].weight is other.word_emb.emb_projs[1].weight
    single = model.float()
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert single.crit.out_layers[0].weight is single.word_emb.emb_layers[0].weight


def test_untied_model_has_its_own_softmax_weights():
    model = tiny(tied=False)
    assert model.crit.out_layers[0].weight is not model.word_emb.emb_layers[0].weight


def test_published_size_has_the_published_keys_and_parameters():
    config = DEQTransformerConfig(
        n_token=267_735,
        n_head=10,
        d_head=70,
        d_model=700,
        d_inner=48_000,
        d_embed=700,
        cutoffs=(20_000, 40_000, 200_000),
        div_val=4,
        wnorm=True,
    )
    with torch.device("meta"):
        state = DEQTransformerLM(config).state_dict()
    assert len(state) == 40
    tied = [f"crit.out_layers.{i}.weight" for i in range(4)]
    counted = state.keys() - {"pos_emb.inv_freq", *tied}
    assert sum(state[name].numel() for name in counted) == 97_851_488
    assert state["func.pos_ff.ff2_net.weight_v"].shape == (700, 48_000)
    assert state["func.dec_attn.qkv_net.weight_g"].shape == (2100, 1, 1)
    assert state["inject_conv.weight"].shape == (2100, 700, 1)


def test_default_dtype_is_left_alone():
    assert torch.get_default_dtype() == torch.float32
    tiny()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_head": 3}, r"`n_head` 2 times `d_head` 3 is 6, not `d_model` 8"),
        ({"n_head": 1, "d_head": 9, "d_model": 9}, r"`d_model` is 9: pass an even width"),
        ({"same_length": True, "mem_len": 0}, r"`same_length` needs a memory"),
        ({"out_dropout": "word"}, r"`out_dropout` is 'word': choose one of position, channel"),
        ({"outer_norm": True}, r"`outer_norm` has no effect without `pre_lnorm`"),
        ({"cutoffs": (20, 10)}, r"`cutoffs` are 20 10"),
    ],
)
def test_contradicting_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DEQTransformerConfig(**(TINY | options))
