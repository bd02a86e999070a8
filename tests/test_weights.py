"""Files of DEQ-Transformer weights: older generations, settings read off the shapes and compared with the flags."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import COMMAND

from config.words import mistakes_in_flags
from models.transformers.weights import DEQTransformerWeights, ShownSettings
from system.errors import UserError
from system.state_dicts import load_state_dict

GOLDEN = Path(__file__).parent / "golden"
WNORM = ShownSettings(
    n_token=97, d_model=24, n_head=3, d_head=8, d_inner=40, d_embed=24, wnorm=True, cutoffs=(20, 50), div_val=2
)


def check_settings(path, state, expected):
    """As --load does."""
    with mistakes_in_flags(COMMAND.flag_names, where=f"{path}: "):
        DEQTransformerWeights().check(state, expected)


def modern(path):
    return DEQTransformerWeights().modern(load_state_dict(path))


def checked(error, *parts):
    message = str(error)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.fixture
def state():
    return load_state_dict(GOLDEN / "model_wnorm.pkl")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("wnorm", {}),
        ("wnorm_2020_layout", {}),
        ("plain", {"wnorm": False}),
        ("divval1", {"cutoffs": (None, None), "div_val": 1}),
        ("nocut", {"cutoffs": (), "div_val": 1}),
    ],
)
def test_settings_are_read_off_the_shapes(name, change):
    state = modern(GOLDEN / f"model_{name}.pkl")
    half = {key: value.bfloat16() for key, value in state.items()}
    assert ShownSettings.of(state) == ShownSettings.of(half) == replace(WNORM, **change)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wnorm", WNORM),
        ("divval1", replace(WNORM, cutoffs=(20, 50), div_val=1)),
        ("nocut", replace(WNORM, cutoffs=(), div_val=1)),
    ],
)
def test_settings_that_agree_pass(name, expected):
    path = GOLDEN / f"model_{name}.pkl"
    check_settings(path, load_state_dict(path), expected)


def test_any_div_val_of_the_same_widths_passes(state):
    for i, width in enumerate((24, 1, 0)):
        state[f"word_emb.emb_layers.{i}.weight"] = torch.zeros((20, 30, 47)[i], width)
    assert ShownSettings.of(state).div_val == 13
    check_settings("FILE", state, replace(WNORM, div_val=20))
    with pytest.raises(UserError, match="--div_val is 12 but the file has 13: pass --div_val 13"):
        check_settings("FILE", state, replace(WNORM, div_val=12))


def test_one_projected_bin_says_that_div_val_is_not_1():
    state = load_state_dict(GOLDEN / "model_nocut.pkl") | {"word_emb.emb_projs.0.weight": torch.zeros(24, 24)}
    check_settings("FILE", state, replace(WNORM, cutoffs=(), div_val=4))
    with pytest.raises(UserError, match="--div_val is 1"):
        check_settings("FILE", state, replace(WNORM, cutoffs=(), div_val=1))


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("wnorm", {"d_model": 500}, "--d_model is 500 but the file has 24: pass --d_model 24"),
        ("wnorm", {"n_head": 6}, "--n_head is 6 but the file has 3: pass --n_head 3"),
        ("wnorm", {"d_head": 4}, "--d_head is 4 but the file has 8: pass --d_head 8"),
        ("wnorm", {"d_inner": 50}, "--d_inner is 50 but the file has 40: pass --d_inner 40"),
        ("wnorm", {"d_embed": 12}, "--d_embed is 12 but the file has 24: pass --d_embed 24"),
        ("wnorm", {"wnorm": False}, "--wnorm is off but the file has weight normalisation: pass --wnorm"),
        ("plain", {"wnorm": True}, "--wnorm is on but the file has no weight normalisation: leave --wnorm out"),
        ("wnorm", {"div_val": 3}, "--div_val is 3 but the file has 2: pass --div_val 2"),
        ("wnorm", {"cutoffs": (20, 60)}, "--cutoffs are 20 60 but the file has 20 50: pass --adaptive --cutoffs 20 50"),
        ("wnorm", {"cutoffs": ()}, "--adaptive is off but the file has 20 50: pass --adaptive --cutoffs 20 50"),
        ("nocut", {}, "--cutoffs are 20 50 but the file has one bin: leave --adaptive out"),
        ("divval1", {"cutoffs": (9,), "div_val": 1}, "--cutoffs are 9 but the file has 2 cutoffs: pass --adaptive"),
        (
            "wnorm",
            {"n_token": 98},
            "vocabulary has 98 words but the file has 97: check --data, --dataset and --cutoffs",
        ),
    ],
)
def test_a_setting_that_differs_is_named_with_both_values_and_the_remedy(name, change, part):
    path = GOLDEN / f"model_{name}.pkl"
    with pytest.raises(UserError) as caught:
        check_settings(path, load_state_dict(path), replace(WNORM, **change))
    checked(caught.value, str(path), part)


def test_all_settings_that_differ_stand_in_one_line(state):
    with pytest.raises(UserError) as caught:
        check_settings(
            "FILE", state, replace(WNORM, n_token=98, d_model=8, n_head=1, wnorm=False, cutoffs=(), div_val=1)
        )
    checked(caught.value, "FILE", "98 words", "--d_model 24", "--n_head 3", "--wnorm", "--cutoffs 20 50", "--div_val 2")
    assert "--d_inner" not in str(caught.value)


@pytest.fixture(scope="module")
def torchdeqs():
    return load_state_dict(GOLDEN / "torchdeq_lm.pth")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"cell_layers": 1}, "--cell_layers is 1 but the file has 3: pass --cell_layers 3"),
        ({"norm_affine": False}, "--norm_affine is off but the file has it: pass --norm_affine"),
        ({"heads_norm": False}, "--heads_norm is off but the file has it: pass --heads_norm"),
        ({"outer_norm": True}, "--outer_norm is on but the file has none: leave --outer_norm out"),
        ({"inject": "both"}, "--inject is both but the file has attention: pass --inject attention"),
        ({"layers_before": 2}, "--layers_before is 2 but the file has 0: pass --layers_before 0"),
        ({"layers_after": 1}, "--layers_after is 1 but the file has 0: pass --layers_after 0"),
    ],
)
def test_the_choices_of_a_cell_are_read_off_torchdeqs_file(change, part, torchdeqs):
    state = DEQTransformerWeights().modern(torchdeqs)
    shown = ShownSettings.of(state)
    check_settings("FILE", state, shown)
    with pytest.raises(UserError) as caught:
        check_settings("FILE", state, replace(shown, **change))
    checked(caught.value, "FILE", part)
    assert DEQTransformerWeights().recognises(torchdeqs)
    assert DEQTransformerWeights().recognises(state)


def test_a_file_without_learned_norms_does_not_show_where_norms_are(state):
    check_settings("FILE", state, replace(WNORM, heads_norm=True, outer_norm=True))


def test_torchdeqs_names_of_a_wrapper_and_of_one_pair(torchdeqs):
    wrapped = {f"module.{name}": value for name, value in torchdeqs.items()}
    assert_same(DEQTransformerWeights().modern(wrapped), DEQTransformerWeights().modern(torchdeqs))
    alone = {name: value for name, value in torchdeqs.items() if not re.match(r"func\.\w+\.[12]\.", name)}
    state = DEQTransformerWeights().modern(alone)
    assert ShownSettings.of(state).cell_layers == 1
    assert torch.equal(state["func.ff_norm.weight"], torchdeqs["func.pos_ff.0.ln.weight"])


@pytest.mark.parametrize("shape", [(), (0,), (7, 16), (48,)])
def test_torchdeqs_entries_of_other_shapes_are_refused_in_one_line(shape, torchdeqs):
    for name in ("func.dec_attn.0.r_w_bias", "injection.weight", "func.dec_attn.0.qkv_net.weight_v"):
        state = DEQTransformerWeights().modern(torchdeqs | {name: torch.zeros(shape)})
        if not name.endswith("weight_v"):  # which only a model's own shapes refuse
            with pytest.raises(UserError) as caught:
                check_settings("FILE", state, ShownSettings.of(DEQTransformerWeights().modern(torchdeqs)))
            checked(caught.value, "FILE", "pass")


def test_injections_of_no_width_are_refused(state):
    with pytest.raises(UserError, match=r"FILE: inject_conv\.weight has 48 channels for a width of 24: pass the state"):
        check_settings("FILE", state | {"inject_conv.weight": torch.zeros(48, 24, 1)}, WNORM)


@pytest.mark.parametrize("name", ["inject_conv.weight", "func.dec_attn.r_w_bias", "word_emb.emb_layers.0.weight"])
def test_the_state_dict_of_another_model_is_refused(state, name):
    with pytest.raises(UserError) as caught:
        check_settings("FILE", {key: value for key, value in state.items() if key != name}, WNORM)
    checked(caught.value, "FILE", name, "pass")
    with pytest.raises(UserError) as caught:
        check_settings("FILE", state | {name: torch.zeros(3)}, WNORM)
    checked(caught.value, "FILE", name, "(3,)", "pass")


def test_widths_that_no_div_val_gives_are_refused(state):
    with pytest.raises(UserError, match=r"FILE.*\[24, 11, 6\].*--div_val"):
        check_settings("FILE", state | {"word_emb.emb_layers.1.weight": torch.zeros(30, 11)}, WNORM)


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name


def test_the_older_generation_becomes_the_current_one(state):
    assert_same(modern(GOLDEN / "model_wnorm_2020_layout.pkl"), state)


def test_the_older_generation_without_weight_norm():
    current = load_state_dict(GOLDEN / "model_plain.pkl")
    older = {}
    for name, value in current.items():
        if "_projs." in name:
            name = name.removesuffix(".weight")
        if "pos_ff" in name and name.endswith("weight"):
            value = value.unsqueeze(2)
        older[name] = value
        if name.startswith("func."):
            for copied in ("func_copy.", "deq.func.", "deq.func_copy.", "deqback.func."):
                older[copied + name.removeprefix("func.")] = value + 1
    assert_same(DEQTransformerWeights().modern(older), current)


def test_names_of_a_wrapper(state):
    wrapped = {f"module.{name}": value for name, value in state.items()}
    assert_same(DEQTransformerWeights().modern(wrapped), state)
