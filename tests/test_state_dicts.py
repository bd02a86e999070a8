"""State dicts: both formats, files that are refused, what is written."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from system.errors import UserError
from system.state_dicts import load_into, load_state_dict, save_state_dict
from system.tensor_files import portable
from utils.adaptive_embedding import AdaptiveEmbedding
from utils.adaptive_softmax import ProjectedAdaptiveLogSoftmax

GOLDEN = Path(__file__).parent / "golden"


class Parts(nn.Module):
    """The parts of a language model that may be tied."""

    def __init__(self, tied):
        super().__init__()
        layout = (30, 8, 8, (5, 12), 2)
        self.word_emb = AdaptiveEmbedding(*layout)
        self.crit = ProjectedAdaptiveLogSoftmax(*layout)
        if tied:
            self.crit.tie(self.word_emb)


def refused(path, *parts):
    """The message that load_state_dict gives for `path`: one line with its name, `parts` and a remedy."""
    with pytest.raises(UserError) as caught:
        load_state_dict(path)
    return checked(caught.value, str(path), "pass", *parts)


def checked(error, *parts):
    message = str(error)
    assert "\n" not in message
    assert all(part in message for part in parts), message
    return message


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name


@pytest.fixture
def state():
    return load_state_dict(GOLDEN / "model_wnorm.pkl")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pkl"


@pytest.mark.parametrize("name", ["wnorm", "plain", "divval1", "nocut"])
def test_a_current_file_is_read_as_it_is(name):
    path = GOLDEN / f"model_{name}.pkl"
    assert_same(load_state_dict(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_both_formats_with_cuda_storages(state, path, zip_format, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(state, path, _use_new_zipfile_serialization=zip_format)
    assert b"cuda:0" in path.read_bytes()
    assert_same(load_state_dict(path), state)


def test_nan_is_a_value(path):
    torch.save({"weight": torch.tensor([float("nan"), 1.0])}, path)
    assert load_state_dict(path)["weight"].isnan().tolist() == [True, False]


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_refused(state, path, zip_format, share):
    torch.save(state, path, _use_new_zipfile_serialization=zip_format)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "cut short")


@pytest.mark.parametrize("content", [b"hello world\n" * 10, b"PK\x03\x04" + bytes(99), bytes(999), b"\x80\x04."])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    refused(path, "no file of tensors")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([torch.zeros(2)], "list"),
        (torch.zeros(2), "Tensor"),
        ({}, "empty"),
        ({"step": 3, "model": {"weight": torch.zeros(2)}, "a": torch.zeros(2)}, "step, model"),
        ({1: torch.zeros(2)}, "(a key of type int)"),
        ({f"n{i}": i for i in range(9)}, "n0, n1, n2, n3 and 5 more"),
        ({"weight": torch.eye(2).to_sparse()}, "dense tensors (weight)"),
        ({"weight": torch.zeros(2, device="meta")}, "dense tensors (weight)"),
    ],
)
def test_values_that_are_no_state_dict_are_refused(path, value, part):
    torch.save(value, path)
    refused(path, part)


def test_files_that_cannot_be_opened_are_refused(tmp_path):
    refused(tmp_path / "missing.pkl", "No such file")
    refused(tmp_path, "directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(path):
    path.write_bytes(b"")
    path.chmod(0)
    refused(path, "Permission denied")


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("target", [True, False])
def test_tied_and_untied(source, target):
    state, model = Parts(source).state_dict(), Parts(target)
    if target and not source:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(UserError) as caught:
            load_into(model, state, "FILE")
        checked(caught.value, "FILE", "word_emb.emb_layers.0.weight", "crit.out_layers.0.weight", "pass `not_tied`")
        assert_same(model.state_dict(), before)
    else:
        load_into(model, state, "FILE")
        assert_same(model.state_dict(), state)


def test_tied_values_may_be_copies():
    state = Parts(tied=True).state_dict()
    for name in ("word_emb.emb_layers.0.weight", "crit.out_layers.0.weight"):
        state[name] = state[name].clone()
    load_into(Parts(tied=True), state, "FILE")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda value: value.long(), "numbers of a kind that weights are not for crit.cluster_bias"),
        (lambda value: value + 1j, "numbers of a kind that weights are not for crit.cluster_bias"),
        (lambda value: value / 0, "NaN or infinity in crit.cluster_bias"),
        (lambda value: value.double() + 1e300, "NaN or infinity in crit.cluster_bias"),
    ],
    ids=["integer", "complex", "not finite", "infinite in the model's precision"],
)
def test_values_that_make_no_weights_are_refused(spoil, part):
    model = Parts(tied=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = model.state_dict()
    state["crit.cluster_bias"] = spoil(state["crit.cluster_bias"])
    with pytest.raises(UserError) as caught:
        load_into(model, state, "FILE")
    checked(caught.value, "FILE", part, "pass")
    assert_same(model.state_dict(), before)


def test_half_precision_makes_weights():
    state = {name: value.half() for name, value in Parts(tied=False).state_dict().items()}
    load_into(Parts(tied=False), state, "FILE")


def test_entries_that_do_not_fit_are_named_and_nothing_is_changed():
    model = Parts(tied=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    del state["crit.cluster_bias"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(6)}
    state["crit.cluster_weight"] = torch.zeros(3, 8)
    with pytest.raises(UserError) as caught:
        load_into(model, state, "FILE")
    checked(
        caught.value,
        "FILE",
        "lacks crit.cluster_bias",
        "unknown extra0, extra1, extra2, extra3 and 2 more",
        "other shapes for crit.cluster_weight",
        "pass",
    )
    assert_same(model.state_dict(), before)


def test_what_is_saved_is_loaded_and_tied_weights_are_stored_once(path):
    model = Parts(tied=True)
    save_state_dict(model.state_dict(), path)
    state = load_state_dict(path)
    assert_same(state, model.state_dict())
    assert state["crit.out_layers.0.weight"].data_ptr() == state["word_emb.emb_layers.0.weight"].data_ptr()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_saved_tensors_are_contiguous_and_bring_no_more_than_themselves(path):
    model = nn.Module()
    table = torch.randn(1000, 1000)
    model.register_buffer("row", table[3])
    model.register_buffer("turned", table[:3, :5].t())
    save_state_dict(model.state_dict(), path)
    assert path.stat().st_size < 20_000
    state = load_state_dict(path)
    assert_same(state, {"row": table[3], "turned": table[:3, :5].t()})
    assert state["turned"].is_contiguous()


def test_saving_replaces_the_file_and_keeps_usual_permissions(path):
    path.write_bytes(b"older")
    save_state_dict(nn.Linear(2, 2).state_dict(), path)
    assert load_state_dict(path)["bias"].shape == (2,)
    plain = path.with_name("plain")
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_portable_takes_what_nests_and_keeps_what_is_shared():
    table = torch.randn(40, 3, requires_grad=True)
    row = table[3]
    value = portable({"state": [(row, {"again": row}), table, table.detach()], "step": 3, "names": ("a", None)})
    (kept, again), whole, same = value["state"]
    assert (value["step"], value["names"]) == (3, ("a", None))
    assert kept is again["again"]
    assert torch.equal(kept, row)
    assert kept.untyped_storage().nbytes() == 3 * 4, "a tensor brings no more than itself"
    assert whole is same
    assert whole.data_ptr() == table.data_ptr(), "what is fit already is not copied"
    assert not kept.requires_grad
    assert type(portable(nn.Linear(2, 2).state_dict())) is dict


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_saved_for_the_cpu_and_stays_there(path):
    model = Parts(tied=True).cuda()
    save_state_dict(model.state_dict(), path)
    state = torch.load(path, weights_only=True)
    assert all(value.device.type == "cpu" for value in state.values())
    assert state["crit.out_layers.0.weight"].data_ptr() == state["word_emb.emb_layers.0.weight"].data_ptr()
    assert all(parameter.is_cuda for parameter in model.parameters())
    load_into(model, state, path)
