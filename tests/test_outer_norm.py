"""The pre-LN cell has no equilibrium where its residual cannot vanish; with an outer norm it has one."""

import pytest
import torch
from solved_model import SolvedLM

from models.protocol import CellMap
from models.transformers.attention import RelativeAttention
from models.transformers.cell import TransformerCell
from models.transformers.feed_forward import PositionwiseFeedForward
from modules.iterate import iterate
from modules.report import Termination

SIZES = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 8}
SOLVE = {"solver": "broyden", "f_thres": 200, "f_eps": 1e-8}


def model(seed: int = 0, *, outer_norm: bool) -> SolvedLM:
    """With the pre-LN cell and the same random weights whether it has an outer norm or not."""
    torch.manual_seed(seed)
    built = SolvedLM(**SIZES, **SOLVE, pre_lnorm=True, outer_norm=outer_norm).double().eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


def problem(subject: SolvedLM) -> tuple[CellMap, torch.Tensor]:
    """f of a segment without memory, and its start (B, L, D)."""
    tokens = torch.randint(SIZES["n_token"], (6, 3), generator=torch.Generator().manual_seed(1))
    return subject.problem(tokens, None)


def residual(f: CellMap, z: torch.Tensor) -> float:
    """‖f(z) - z‖."""
    return float((f(z) - z).norm())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_with_it_there_is_an_equilibrium(seed):
    subject = model(seed, outer_norm=True)
    f, z0 = problem(subject)
    z, solve = subject.deq(f, z0)
    assert solve.forward.termination is Termination.CONVERGED
    assert float(z.norm()) == pytest.approx(z.numel() ** 0.5, rel=1e-3)
    assert residual(f, z) < 1e-7 * float(z.norm())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_without_it_the_state_runs_away(seed):
    subject = model(seed, outer_norm=False)
    f, z0 = problem(subject)
    assert residual(f, subject.deq(f, z0)[0]) > 1, "where the solver ends"
    near = iterate(f, z0, steps=200, damping=0.5)
    far = iterate(f, near, steps=200, damping=0.5)
    assert min(residual(f, near), residual(f, far)) > 1
    assert float(far.norm()) == pytest.approx(2 * float(near.norm()), rel=0.05)


@torch.no_grad()
def test_without_it_the_residual_does_not_see_the_states_mean():
    """D equations a position depend on D - 1 of its unknowns, so that in general none of their points solves them."""
    for outer_norm in (False, True):
        f, z0 = problem(model(outer_norm=outer_norm))
        generator = torch.Generator().manual_seed(2)
        z = torch.randn(z0.shape, generator=generator, dtype=z0.dtype)
        shifted = z + torch.randn(*z.shape[:2], 1, generator=generator, dtype=z.dtype)
        assert torch.allclose(f(shifted) - shifted, f(z) - z, rtol=0, atol=1e-10) is not outer_norm


def test_it_adds_no_entry_to_the_state_dict():
    assert model(outer_norm=True).state_dict().keys() == model(outer_norm=False).state_dict().keys()


def cell(**options) -> TransformerCell:
    attention = RelativeAttention(8, 2, 4, dropout=0.0, dropatt=0.0, wnorm=False)
    return TransformerCell(attention, PositionwiseFeedForward(8, 12, dropout=0.0, wnorm=False), **options).double()


def test_it_may_learn():
    subject = model(outer_norm=True)
    plain = problem(subject)[0]
    learned = cell(norm="pre", outer_norm=True, norm_affine=True)
    assert not learned.load_state_dict(subject.func.state_dict(), strict=False).unexpected_keys
    subject.model.func = learned
    f, z = problem(subject)
    assert torch.equal(f(z), plain(z)), "scale and bias begin as 1 and 0"
    f(z).pow(3).sum().backward()
    for kind in ("weight", "bias"):
        assert float(learned.get_parameter(f"outer_norm.{kind}").grad.norm()) > 0


def test_the_post_ln_cell_takes_none():
    with pytest.raises(ValueError, match="`outer_norm` has no effect where `norm` is 'post': pass `norm` 'pre'"):
        cell(outer_norm=True)
