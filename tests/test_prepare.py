"""Forms of a map for many evaluations without gradients: which there are, and where a layer uses them."""

import copy

import pytest
import torch

from modules.deq import DEQModule
from modules.prepare import PREPARATIONS, prepare
from modules.settings import GRADIENTS
from modules.state import CastMap, StateLayout


class Map:
    """z ↦ cos z / 2 + x, which can be packed; notes who evaluates it, and with which gradients."""

    def __init__(self, x, calls, packed=False):
        self.x, self.calls, self.packed = x, calls, packed

    def __call__(self, z):
        self.calls.append(("packed" if self.packed else "plain", torch.is_grad_enabled()))
        return torch.cos(z) / 2 + self.x

    def pack(self, z):
        self.calls.append(("pack", tuple(z.shape)))
        return Map(self.x, self.calls, packed=True)

    def select(self, rows):
        return Map(self.x[rows], self.calls, self.packed)


@pytest.fixture
def f():
    return Map(torch.linspace(-1, 1, 6).view(2, 3).requires_grad_(), [])


def test_eager_is_the_map_itself(f):
    assert prepare(f, torch.zeros(2, 3), "eager") is f
    assert not f.calls


def test_packed_is_what_the_map_gives_for_such_states(f):
    packed = prepare(f, torch.zeros(2, 3), "packed")
    assert packed.packed
    assert f.calls == [("pack", (2, 3))]
    assert prepare(torch.cos, torch.zeros(2, 3), "packed") is torch.cos


def test_unknown_preparations_are_refused():
    with pytest.raises(ValueError, match="`how` is 'compiled': choose one of eager, packed"):
        prepare(torch.cos, torch.zeros(1), "compiled")
    with pytest.raises(ValueError, match="`prepare` is 'compiled': choose one of eager, packed"):
        DEQModule(prepare="compiled")


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("grad", GRADIENTS)
def test_a_layer_packs_its_forward_solve_and_nothing_else(grad, scope, f):
    deq = DEQModule(grad=grad, f_thres=6, f_eps=0, stop_scope=scope)
    z, _ = deq(f, torch.zeros(2, 3))
    z.sum().backward()
    kinds = [call for call in f.calls if call[0] != "pack"]
    assert all(with_gradients == (kind == "plain") for kind, with_gradients in kinds)
    solves = grad not in ("unroll", "reversible")
    assert f.calls.count(("pack", (2, 3))) == solves
    assert kinds.count(("packed", False)) == (7 if solves else 0)
    applications = {
        "implicit": 1,
        "one_step": 1,
        "phantom": 5,
        "unroll": 6 + 5,  # again on backward, where z has a gradient
        "reversible": 12 + 11,
    }
    assert kinds.count(("plain", True)) == applications[grad]


@pytest.mark.parametrize("how", PREPARATIONS)
def test_a_layer_without_gradients(how, f):
    with torch.no_grad():
        z, _ = DEQModule(prepare=how)(f, torch.zeros(2, 3))
    torch.testing.assert_close(z, torch.cos(z) / 2 + f.x, rtol=1e-2, atol=1e-2)
    assert {kind for kind, _ in f.calls} == ({"pack", "packed"} if how == "packed" else {"plain"})


def test_under_autocast_the_cast_map_hands_on(f):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        DEQModule()(f, torch.zeros(2, 3))
    assert f.calls[0] == ("pack", (2, 3))
    assert {kind for kind, _ in f.calls[1:]} == {"packed"}


def test_wrapped_maps_offer_what_the_map_has(f):
    cast = CastMap(f, torch.float64)
    assert isinstance(cast.pack(torch.zeros(2, 3)), CastMap)
    assert cast.pack(torch.zeros(2, 3)).f.packed
    assert not hasattr(CastMap(torch.cos, torch.float64), "pack")
    assert not hasattr(StateLayout.of((torch.zeros(2, 3),)).flattened(f), "pack"), "its states would be flat ones"


def test_copies_keep_the_preparation():
    deq = copy.deepcopy(DEQModule(prepare="eager"))
    assert deq.prepare == "eager"
    assert "prepare='eager'" in repr(deq)
