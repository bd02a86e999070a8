"""Activation regularisation: against its formula by loops and autograd, in chunks, of one token, beside the loss."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from config.settings import Settings
from models.protocol import LMOutput
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from modules.depth import Applications
from modules.deq import DEQModule
from system.distributed import World
from training.activation_penalty import ActivationPenalty
from training.telemetry import Window
from training.update import Update, Updater
from utils.optimizers import Clipping

LENGTH, ROWS, N_TOKEN = 6, 5, 11
SHAPE = {"n_token": N_TOKEN, "d_embed": 8, "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 12, "mem_len": 4}
DEPTHS = {
    "shallow": Applications(3),
    "equilibrium": DEQModule(f_thres=80, b_thres=80, f_eps=1e-12, b_eps=1e-12, stop_scope="sequence"),
}


def model(dropout: float = 0.0) -> DEQTransformerLM:
    torch.manual_seed(0)
    made = DEQTransformerLM(DEQTransformerConfig(**SHAPE, dropout=dropout)).double().train()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def batch(length: int = LENGTH) -> SimpleNamespace:
    ids = torch.randint(N_TOKEN, (length + 1, ROWS), generator=torch.Generator().manual_seed(1))
    return SimpleNamespace(tokens=ids[:-1], targets=ids[1:])


def updated(
    changed: DEQTransformerLM, depth, penalty: ActivationPenalty | None, segment: SimpleNamespace, n=1
) -> Update:
    """One update of gradient descent, unclipped, in n chunks; the gradients stay."""
    optimizer = torch.optim.SGD(changed.parameters(), lr=1.0)
    clipping = Clipping(changed.parameters(), (), math.inf)
    updater = Updater(changed, optimizer, clipping, world=World(), n_chunks=n, n_rows=ROWS, penalty=penalty)
    torch.manual_seed(2)
    return updater(segment, [None] * n, depth)


def by_loops(output: LMOutput, alpha: float, beta: float) -> Tensor:
    """The formula, entry by entry."""
    squares = [h**2 for h in output.states.flatten()]
    differences = [
        (output.raw[t + 1, b, d] - output.raw[t, b, d]) ** 2
        for t in range(LENGTH - 1)
        for b in range(ROWS)
        for d in range(SHAPE["d_model"])
    ]
    return alpha * sum(squares) / len(squares) + beta * sum(differences) / len(differences)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (0.0, 3.0), (2.0, 3.0)])
@pytest.mark.parametrize("depth", DEPTHS)
def test_gradient_is_that_of_the_formula(depth, alpha, beta):
    trained, segment = model(dropout=0.3), batch()
    plain = copy.deepcopy(trained)
    update = updated(trained, DEPTHS[depth], ActivationPenalty(alpha, beta), segment)
    torch.manual_seed(2)
    output = plain(segment.tokens, segment.targets, None, DEPTHS[depth])
    penalty = by_loops(output, alpha, beta)
    (output.nll.mean() + penalty).backward()
    assert update.activation_loss == pytest.approx(penalty.item(), rel=1e-12)
    assert update.loss == pytest.approx(output.nll.mean().item(), rel=1e-12), "the loss stays the nll"
    for mine, expected in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-9, atol=1e-12)
    assert not torch.equal(output.states, output.raw), "or nothing tells the two apart"


@pytest.mark.parametrize("depth", DEPTHS)
def test_chunks_add_up(depth):
    whole, parts = model(), model()
    penalty = ActivationPenalty(2.0, 3.0)
    one, three = updated(whole, DEPTHS[depth], penalty, batch()), updated(parts, DEPTHS[depth], penalty, batch(), 3)
    assert three.activation_loss == pytest.approx(one.activation_loss, rel=1e-9)
    for mine, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-7, atol=1e-10)


def test_a_segment_of_one_token_has_no_differences():
    one, other = model(), model()
    alone = updated(one, DEPTHS["shallow"], ActivationPenalty(0.0, 3.0), batch(1))
    assert (alone.activation_loss, alone.is_sound) == (0.0, True)
    both = updated(other, DEPTHS["shallow"], ActivationPenalty(2.0, 3.0), batch(1))
    assert both.activation_loss > 0


def test_without_weights_there_is_no_penalty():
    assert ActivationPenalty.of(Settings()) is None
    assert ActivationPenalty.of(Settings(beta=0.5)) == ActivationPenalty(0.0, 0.5)
    assert updated(model(), DEPTHS["shallow"], None, batch()).activation_loss is None


def test_it_has_a_curve():
    window = Window()
    for penalty in (0.25, 0.75):
        window.add(Update(1.0, 1.0, [], [], activation_loss=penalty), tokens=4, seconds=1.0, lr=0.1)
    assert window.scalars()["train/activation_loss"] == 0.5
    assert Window.of(window.as_dict()).scalars() == window.scalars()
    assert "train/activation_loss" not in Window().scalars()
