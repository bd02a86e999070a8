"""What models hand to the solver and to the program: contexts, cells, hidden states."""

import re
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from models.context import Context, batched
from models.protocol import CellMap
from models.registry import MODELS
from models.transformers.attention import RelativeAttention
from models.transformers.cell import TransformerCell
from models.transformers.config import DEQTransformerConfig
from models.transformers.feed_forward import PositionwiseFeedForward
from models.transformers.model import DEQTransformerLM
from models.trellisnets.config import DEQTrellisNetConfig
from models.trellisnets.model import DEQTrellisNetLM
from modules.deq import DEQModule
from system.flag import flags_of

TINY = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 8, "mem_len": 5}
DROPOUT = {"dropout": 0.3, "dropatt": 0.3}


@dataclass(frozen=True)
class Inner(Context):
    keys: Tensor = batched(1)  # (H, B, E)
    mask: Tensor | None = batched(1)  # (H, B, 1)
    packed_for: int | None = None

    def pack(self, n_rows: int) -> "Inner":
        return replace(self, packed_for=n_rows)


@dataclass(frozen=True)
class Outer(Context):
    weight: Tensor  # (D, D)
    injection: Tensor = batched(0)  # (B, D)
    mask: Tensor | None = batched(0)
    places: Tensor  # (3,), integers that are no sequence's own
    inner: Inner
    prepared: object


def outer(prepared=None, mask=None, inner_mask=None, packed_for=None, seed=0) -> Outer:
    generator = torch.Generator().manual_seed(seed)
    weight, injection, keys = (torch.randn(shape, generator=generator) for shape in ((2, 2), (3, 2), (4, 3, 5)))
    return Outer(weight, injection, mask, torch.arange(3) + seed, Inner(keys, inner_mask, packed_for), prepared)


def tensors(context: Context) -> list[Tensor]:
    """All of them, in the order of the fields."""
    values = [getattr(context, entry.name) for entry in fields(context)]
    nested = [tensors(value) if isinstance(value, Context) else [value] for value in values]
    return [value for part in nested for value in part if isinstance(value, Tensor)]


def test_some_sequences():
    prepared, rows = object(), torch.tensor([2, 0])
    whole = outer(prepared, packed_for=7)
    some = whole.select(rows)
    assert torch.equal(some.injection, whole.injection[rows])
    assert torch.equal(some.inner.keys, whole.inner.keys[:, rows])
    assert some.weight is whole.weight
    assert some.places is whole.places
    assert (some.mask, some.inner.mask) == (None, None)
    assert (some.prepared, some.inner.packed_for) == (prepared, 7)
    masks = outer(mask=torch.rand(3, 1), inner_mask=torch.rand(4, 3, 1))
    assert torch.equal(masks.select(rows).mask, masks.mask[rows])
    assert torch.equal(masks.select(rows).inner.mask, masks.inner.mask[:, rows])


def test_another_dtype():
    whole = outer(prepared=object(), packed_for=7)
    cast = whole.to(torch.bfloat16)
    for name in ("weight", "injection"):
        assert torch.equal(getattr(cast, name), getattr(whole, name).bfloat16())
        assert getattr(cast, name).dtype == torch.bfloat16
    assert torch.equal(cast.inner.keys, whole.inner.keys.bfloat16())
    assert cast.inner.keys.dtype == torch.bfloat16
    assert cast.places is whole.places
    assert (cast.mask, cast.inner.mask) == (None, None)
    assert (cast.prepared, cast.inner.packed_for) == (None, None), "what was prepared was prepared for another dtype"


def test_fixed_buffers_take_over_values():
    buffers, other = (
        outer(mask=torch.full((3, 1), value), inner_mask=torch.full((4, 3, 1), value), seed=seed)
        for seed, value in ((0, 1.0), (1, 2.0))
    )
    mine, theirs = tensors(buffers), tensors(other)
    assert len(mine) == 6
    places = [tensor.data_ptr() for tensor in mine]
    assert not any(map(torch.equal, mine, theirs))
    buffers.copy_(other)
    assert [tensor.data_ptr() for tensor in tensors(buffers)] == places
    assert all(map(torch.equal, mine, theirs))


MASK, INNER_MASK = {"mask": torch.ones(3, 1)}, {"inner_mask": torch.ones(4, 3, 1)}


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (MASK, {}, "Outer.mask"),
        ({}, MASK, "Outer.mask"),
        (INNER_MASK, {}, "Inner.mask"),
        ({}, INNER_MASK, "Inner.mask"),
        ({"prepared": 1}, {"prepared": 1}, "Outer.prepared"),
        ({"prepared": 1}, {}, "Outer.prepared"),
        ({}, {"prepared": 1}, "Outer.prepared"),
        ({"packed_for": 7}, {}, "Inner.packed_for"),
        ({}, {"packed_for": 7}, "Inner.packed_for"),
    ],
)
def test_buffers_that_cannot_take_over_are_refused(one, other, name):
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is a tensor in one context alone, or is prepared"):
        outer(**one).copy_(outer(**other))


def test_nested_contexts_are_packed():
    whole = outer()
    packed = whole.pack(12)
    assert packed.inner.packed_for == 12
    assert whole.inner.packed_for is None
    assert all(mine is theirs for mine, theirs in zip(tensors(packed), tensors(whole), strict=True))
    assert CellMap(None, whole).pack(torch.zeros(3, 5, 2)).context.inner.packed_for == 15, "B·L rows"


def language_model(dtype=torch.float64, **options) -> DEQTransformerLM:
    torch.manual_seed(0)
    model = DEQTransformerLM(DEQTransformerConfig(**(TINY | options))).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokens(seed=1) -> Tensor:
    return torch.randint(TINY["n_token"], (6, 3), generator=torch.Generator().manual_seed(seed))


def problem(model, seed=1) -> tuple[CellMap, Tensor]:
    """f of a segment with a memory, and a state."""
    memory = model.hidden(tokens(seed + 1), None, DEQModule(f_thres=3)).memory
    f, z0 = model.problem(tokens(seed), memory)
    return f, torch.randn(z0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(z0)


@pytest.mark.parametrize("n_segments", [1, 3])
@pytest.mark.parametrize("mem_len", [0, 3, 8, 40])
def test_a_transformers_memory_keeps_nothing_else_alive(mem_len, n_segments):
    model, memory = language_model(mem_len=mem_len), None
    for seed in range(n_segments):
        memory = model.hidden(tokens(seed), memory, DEQModule(f_thres=3)).memory
    assert [part.shape[1] for part in memory] == [min(mem_len, 6 * n_segments)] * 2
    assert held(memory) == sizes(memory)


def test_the_memory_of_layers_keeps_nothing_else_alive():
    model = language_model(mem_len=3, layers_before=1, layers_after=1)
    memory = model.hidden(tokens(), None, DEQModule(f_thres=3)).memory
    assert len(memory) == 3
    assert held(memory) == sizes(memory)


def test_a_trellisnets_memory_keeps_nothing_else_alive():
    model = DEQTrellisNetLM(DEQTrellisNetConfig(n_token=30, d_embed=4, nhid=3, nout=4))
    for reader in (model, model.for_reading()):
        memory = reader.hidden(tokens(), None, DEQModule(f_thres=3)).memory
        memory = (memory,) if isinstance(memory, Tensor) else memory
        assert held(memory) == sizes(memory)


def held(memory: tuple[Tensor, ...]) -> list[int]:
    """Bytes that each tensor's storage has."""
    return [part.untyped_storage().nbytes() for part in memory]


def sizes(memory: tuple[Tensor, ...]) -> list[int]:
    return [part.numel() * part.element_size() for part in memory]


@torch.no_grad()
def test_the_transformers_context_for_some_sequences():
    f, z = problem(language_model(**DROPOUT).train())
    for rows in (torch.tensor([1]), torch.tensor([2, 0])):
        torch.testing.assert_close(f.select(rows)(z[rows]), f(z)[rows], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_transformers_context_in_another_dtype():
    f, z = problem(language_model(torch.float32))
    wide = CellMap(f.cell, f.context.to(torch.float64))(z.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), f(z), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_transformers_context_takes_over_another_segments_values():
    model = language_model(**DROPOUT).train()
    (f, z), (g, _) = problem(model), problem(model, seed=5)
    wanted = g(z)
    assert not torch.allclose(f(z), wanted)
    places = [tensor.data_ptr() for tensor in tensors(f.context)]
    f.context.copy_(g.context)
    assert torch.equal(f(z), wanted)
    assert [tensor.data_ptr() for tensor in tensors(f.context)] == places


def cell(**options) -> TransformerCell:
    torch.manual_seed(0)
    attention = RelativeAttention(8, 2, 4, dropout=0.0, dropatt=0.0, wnorm=False)
    return TransformerCell(attention, PositionwiseFeedForward(8, 12, dropout=0.0, wnorm=False), **options).double()


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_norms_may_learn(norm):
    model = language_model()
    plain, learned = cell(norm=norm), cell(norm=norm, norm_affine=True)
    assert {name for name, _ in learned.named_parameters()} - {name for name, _ in plain.named_parameters()} == {
        f"{place}.{kind}" for place in ("attn_norm", "ff_norm") for kind in ("weight", "bias")
    }
    model.func = plain
    f, z = problem(model)
    model.func = learned
    g, _ = problem(model)
    assert torch.equal(f(z), g(z)), "scale and bias begin as 1 and 0"
    g(z).square().sum().backward()
    for name in ("attn_norm", "ff_norm"):
        for kind in ("weight", "bias"):
            assert float(learned.get_parameter(f"{name}.{kind}").grad.norm()) > 0


def test_norms_stand_in_one_of_two_places():
    with pytest.raises(ValueError, match="`norm` is 'both': choose one of post, pre"):
        cell(norm="both")


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"cutoffs": (10, 20), "div_val": 2}])
def test_scoring_needs_hidden_states_alone(options):
    model, deq = language_model(**options).eval(), DEQModule(f_thres=20)
    targets = tokens(9)
    output = model(tokens(), targets, None, deq)
    hidden = model.hidden(tokens(), None, deq)
    assert hidden.states.shape == (6, 3, 8)
    log_p = model.head.log_prob(hidden.states.flatten(0, 1)).view(6, 3, -1)
    torch.testing.assert_close(log_p.exp().sum(2), torch.ones(6, 3, dtype=torch.float64))
    torch.testing.assert_close(-log_p.gather(2, targets.unsqueeze(2)).squeeze(2), output.nll)
    assert torch.equal(model.head.nll(hidden.states.flatten(0, 1), targets.flatten()).view(6, 3), output.nll)


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_built_model_may_be_given_anew_what_is_swept_and_nothing_of_its_weights(spec):
    flags, reach = flags_of(spec.flags), set(spec.build.reach)
    assert {name for name, flag in flags.items() if flag.sweeps} <= reach
    assert not any(flags[name].is_of_weights for name in reach)


def test_a_model_that_may_be_given_nothing_anew():
    model = DEQTrellisNetLM(DEQTrellisNetConfig(n_token=9, d_embed=4, nhid=6, nout=4))
    assert model.with_config(replace(model.config)).trellisnet is model.trellisnet
    with pytest.raises(ValueError, match="`nhid` belongs to the model's build: choose from none"):
        model.with_config(replace(model.config, nhid=7))
