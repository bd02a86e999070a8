"""Models that share parameters under other settings, their spectral radius, and rows that stop on their own."""

from dataclasses import replace

import pytest
import torch
from solved_model import SolvedLM

from modules.deq import DEQModule
from modules.jacobian import spectral_radius

N_TOKEN = 30
SIZES = {"n_token": N_TOKEN, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 16, "d_embed": 8}


def model(**changes) -> SolvedLM:
    torch.manual_seed(0)
    built = SolvedLM(**{**SIZES, "cutoffs": (8, 16), "wnorm": True, **changes})
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0, 0.3)
    return built.double()


def segment(length: int = 7, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, N_TOKEN, (length + 1, rows), generator=generator)
    return tokens[:-1], tokens[1:]


def test_model_with_other_settings_is_the_one_built_with_them_and_shares_its_parameters():
    changes = {"mem_len": 5, "same_length": True}
    solver = {"f_thres": 3, "solver": "broyden", "f_options": {"history": 2}}
    first = model(mem_len=4, f_thres=9).eval()
    before = torch.get_rng_state()
    other = first.with_config(replace(first.config, **changes))
    assert torch.equal(before, torch.get_rng_state())
    named = dict(first.named_parameters(remove_duplicate=False))
    assert all(parameter is named[name] for name, parameter in other.named_parameters(remove_duplicate=False))
    assert not other.training

    built = model(**changes, **solver).eval()
    built.load_state_dict(first.state_dict())
    memory = memory_again = None
    with torch.no_grad():
        for _ in range(2):
            wanted = built(*segment(), memory)
            got = other(*segment(), memory_again, DEQModule(**solver))
            memory, memory_again = wanted.memory, got.memory
            assert torch.equal(got.nll, wanted.nll)
        assert first(*segment()).solve.forward.n_steps > 3, "the first model is as it was"
        assert first(*segment()).memory.z.shape[1] == 4
    assert (first.config.mem_len, first.config.same_length) == (4, False)


def test_shape_of_a_model_cannot_be_changed():
    first = model()
    with pytest.raises(ValueError, match="`d_inner` belongs to the model's build: choose from mem_len"):
        first.with_config(replace(first.config, d_inner=20))


@pytest.mark.parametrize("grad", ["implicit", "one_step", "phantom", "unroll"])
def test_penalty_reaches_the_parameters_with_every_gradient(grad):
    subject = model(grad=grad, f_thres=5)
    subject(*segment(), jacobian_samples=2).solve.jacobian_loss.backward()
    assert float(subject.func.pos_ff.ff1_net.weight_v.grad.abs().sum()) > 0


def test_spectral_radius_is_that_of_the_jacobian():
    subject = model(f_thres=40, f_eps=1e-10, solver="broyden", mem_len=3).eval()
    tokens, targets = segment(length=3, rows=2)
    with torch.no_grad():
        memory = subject(tokens, targets).memory
    f, z = subject.problem(tokens, memory)
    with torch.no_grad():
        z = subject.deq(f, z)[0]
    jacobian = torch.autograd.functional.jacobian(f, z)  # (B, L, D, B, L, D)
    wanted = [float(torch.linalg.eigvals(jacobian[b, :, :, b].reshape(24, 24)).abs().max()) for b in range(2)]
    assert spectral_radius(f, z).tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("solver", ["anderson", "broyden"])
def test_rows_score_the_same_alone_and_together_with_their_own_stops(solver):
    subject = model(f_thres=30, f_eps=1e-3, solver=solver, mem_len=6, stop_scope="sequence").eval()
    tokens, targets = segment(length=24)
    with torch.no_grad():
        together = losses(subject, tokens, targets)
        alone = torch.cat([losses(subject, tokens[:, [row]], targets[:, [row]]) for row in range(4)], dim=1)
        subject.deq.stop_scope = "batch"
        of_the_batch = losses(subject, tokens, targets)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(of_the_batch, alone, rtol=1e-7), "whole-batch stops do depend on the batch"


def losses(subject: SolvedLM, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """nll (L, B) of consecutive segments of 6 tokens."""
    memory, parts = None, []
    for start in range(0, len(tokens), 6):
        output = subject(tokens[start : start + 6], targets[start : start + 6], memory)
        memory = output.memory
        parts.append(output.nll)
    return torch.cat(parts)
