"""The language model under what users of PyTorch put around a module."""

import copy

import pytest
import torch
from solved_model import SolvedLM
from torch import nn

from modules.solvers import SOLVERS

TINY = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 6, "mem_len": 5}


def language_model(**options):
    torch.manual_seed(0)
    model = SolvedLM(**TINY, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    generator = torch.Generator().manual_seed(1)
    stream = torch.randint(TINY["n_token"], (7, 3), generator=generator)
    return model, stream[:-1], stream[1:]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("options", [{}, {"wnorm": True, "dropout": 0.1, "dropatt": 0.1, "stop_scope": "sequence"}])
def test_language_model_under_autocast(solver, options):
    model, tokens, targets = language_model(solver=solver, **options)
    with torch.no_grad():
        exact = model.eval()(tokens, targets).nll
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(tokens, targets, model(tokens, targets).memory)
        plain = model.eval()(tokens, targets)
    output.nll.mean().backward()
    assert output.memory.z.dtype == output.memory.u.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert output.solve.backward is not None
    assert (plain.nll.mean() - exact.mean()).abs() < 0.05 * exact.mean()


def test_language_model_under_functional_call():
    model, tokens, targets = language_model(solver="broyden", f_eps=1e-6, b_eps=1e-6)
    model(tokens, targets).nll.mean().backward()
    substituted = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    loss = torch.func.functional_call(other, substituted, (tokens, targets)).nll.mean()
    found = torch.autograd.grad(loss, tuple(substituted.values()))
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
