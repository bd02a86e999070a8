"""With the scope "sequence", what the language model makes of a sequence does not depend on its batch mates.

Held here: the same numbers to rounding. A residual that rounding moves across eps would stop one solve a step earlier
than the other, and the results would differ by that step, about eps; `benchmarks/benchmark_batch_mates.py` counts how
often that happens.
"""

import math

import pytest
import torch
from solved_model import SolvedLM

from models.transformers.model import Memory
from modules.broyden import History
from modules.deq import DEQModule
from modules.report import Termination

TINY = {"n_token": 30, "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 12, "d_embed": 8, "mem_len": 5}
B, L = 6, 6
PLANTED = 2  # the row that something is done to
POISON = TINY["n_token"] - 1  # a token that ordinary rows do not hold
EPS = 1e-4
BARS = {torch.float64: 1e-11, torch.float32: 10 * EPS}  # in single precision a step more or less is allowed

cases = pytest.mark.parametrize(
    ("solver", "dtype"), [("broyden", torch.float64), ("anderson", torch.float64), ("broyden", torch.float32)]
)


def tiny(solver, dtype, **options):
    torch.manual_seed(0)
    settings = {"tied": False, "solver": solver, "stop_scope": "sequence", "f_eps": EPS, "b_eps": EPS}
    model = SolvedLM(**TINY, **(settings | options)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


class Segment:
    """Random tokens (L + 1, B) and a random memory."""

    def __init__(self, dtype):
        generator = torch.Generator().manual_seed(1)
        self.stream = torch.randint(POISON, (L + 1, B), generator=generator)
        self.z = torch.randn(B, 5, 8, generator=generator, dtype=torch.float64).to(dtype)
        self.u = torch.randn(B, 5, 24, generator=generator, dtype=torch.float64).to(dtype)

    def score(self, model, rows):
        """The model's output for these rows, in this order."""
        tokens = self.stream[:, rows]
        return model(tokens[:-1], tokens[1:], Memory(self.z[rows], self.u[rows]))


def plant(kind, segment, model):
    """Something in one row that cannot be solved."""
    if kind == "nan memory":
        segment.z[PLANTED, 1, 3] = math.nan
    elif kind == "nan memory injection":
        segment.u[PLANTED, 4, 10] = math.nan
    elif kind == "nan embedding":
        with torch.no_grad():
            model.word_emb.emb_layers[0].weight[POISON] = math.nan
        segment.stream[3, PLANTED] = POISON
    elif kind == "huge memory":
        segment.z[PLANTED] *= 1e6


@cases
@pytest.mark.parametrize("kind", ["ordinary", "nan memory", "nan memory injection", "nan embedding", "huge memory"])
def test_a_sequence_has_the_same_nll_in_any_batch(solver, dtype, kind):
    model, segment = tiny(solver, dtype), Segment(dtype)
    plant(kind, segment, model)
    expected = {"ordinary": Termination.CONVERGED, "huge memory": Termination.MAX_STEPS}
    others = [row for row in range(B) if row != PLANTED]
    with torch.no_grad():
        alone = {row: segment.score(model, [row]) for row in others}
        for order in (list(range(B)), [5, PLANTED, 0], [PLANTED, 3, 1, 0], [0, 1, 4, PLANTED], others):
            output = segment.score(model, order)
            report = output.solve.forward
            for place, row in enumerate(order):
                if row == PLANTED:
                    assert report.sequence_terminations[place] is expected.get(kind, Termination.NONFINITE)
                    continue
                own = alone[row].solve.forward
                assert report.sequence_terminations[place] is own.termination
                if dtype == torch.float64:
                    assert report.sequence_steps[place] == own.sequence_steps[0]
                torch.testing.assert_close(output.nll[:, place], alone[row].nll[:, 0], rtol=0, atol=BARS[dtype])
                torch.testing.assert_close(output.memory.z[place], alone[row].memory.z[0], rtol=0, atol=BARS[dtype])


def test_scope_batch_does_depend_on_batch_mates():
    """So that the tests above have something to find."""
    model, segment = tiny("broyden", torch.float64, stop_scope="batch"), Segment(torch.float64)
    with torch.no_grad():
        together, alone = segment.score(model, list(range(B))), segment.score(model, [1])
        segment.z[PLANTED] = math.nan
        spoilt = segment.score(model, list(range(B)))
    assert (together.nll[:, 1] - alone.nll[:, 0]).abs().max() > 1e-6
    assert (spoilt.nll[:, 1] - alone.nll[:, 0]).abs().max() > 1e-2


@cases
@pytest.mark.parametrize("mode", ["implicit", "one_step", "phantom"])
def test_the_gradient_of_a_sequences_loss_is_its_own(solver, dtype, mode):
    model, segment = tiny(solver, dtype, grad=mode), Segment(dtype)
    plant("huge memory", segment, model)

    def gradients(order):
        model.zero_grad()
        segment.score(model, order).nll[:, order.index(1)].sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for alone, together in zip(gradients([1]), gradients([0, PLANTED, 1, 4]), strict=True):
        assert (together - alone).abs().max() <= 10 * BARS[dtype] * alone.abs().max()


@cases
def test_a_nan_sequence_spoils_only_sums_over_sequences(solver, dtype):
    """0 · NaN is NaN: gradients of shared parameters are lost, those of a sequence's own inputs are not."""
    model, segment = tiny(solver, dtype), Segment(dtype)
    plant("nan memory", segment, model)

    def gradient(order):
        place = order.index(1)
        segment.u = segment.u.detach().requires_grad_()
        segment.score(model, order).nll[:, place].sum().backward()
        return segment.u.grad[1]

    torch.testing.assert_close(gradient([0, PLANTED, 1, 4]), gradient([1]), rtol=0, atol=10 * BARS[dtype])
    assert model.func.dec_attn.qkv_net.weight.grad.isnan().any()


@pytest.mark.parametrize("solver", ["fixed_point", "anderson", "broyden"])
def test_a_diverging_sequence_leaves_the_others_alone(solver):
    """f(z) = z + 1 + z² has no equilibrium; f(z) = cos z has one."""
    diverging = torch.tensor([True, False, False]).unsqueeze(1)
    deq = DEQModule(solver=solver, f_thres=100, f_eps=1e-10, stop_scope="sequence")
    with torch.no_grad():
        z, info = deq(lambda z: torch.where(diverging, z + 1 + z**2, z.cos()), torch.ones(3, 2, dtype=torch.float64))
    report = info.forward
    torch.testing.assert_close(z[1:], torch.full((2, 2), 0.7390851332151607, dtype=z.dtype), rtol=1e-9, atol=0)
    assert report.sequence_terminations[0] is not Termination.CONVERGED
    assert report.sequence_terminations[1:] == (Termination.CONVERGED,) * 2
    assert report.n_unconverged == 1


def test_the_first_inner_product_rounds_the_same_at_any_batch_size():
    """Broyden's steps amplify a difference there up to 10⁵ times."""
    generator = torch.Generator().manual_seed(0)
    columns, vectors = (torch.randn(shape, generator=generator) for shape in ((8, 8192), (8, 2, 8192)))

    def inner(rows):
        history = History(columns[rows], 5)
        history.append(columns[rows])
        return history.inner(vectors[rows])

    whole = inner(slice(None))
    assert all(torch.equal(inner(slice(row, row + 1)), whole[row : row + 1]) for row in range(8))
