"""The norm over what is added to the state, and the gains of the state where it enters the cell."""

import pytest
import torch
from tiny_cells import BOUNDED, applied, parts_of, tiny
from tiny_run import COMMAND, MODEL
from tiny_transformer import TINY, batch

from evaluation.trained_model import make_model
from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from models.transformers.weights import DEQTransformerWeights
from modules.depth import Applications


@torch.no_grad()
@pytest.mark.parametrize("inject", ["attention", "residual", "both"])
@pytest.mark.parametrize("options", [{}, BOUNDED, {"cell_layers": 2}], ids=str)
def test_the_gains_multiply_state_and_memory_before_the_injection_is_added(inject, options):
    model, plain = tiny(inject=inject, feedback=0.3, **options), tiny(inject=inject, **options)
    plain.func.load_state_dict(model.func.state_dict(), strict=False)
    gains = (model.func.layers[0] if "cell_layers" in options else model.func).feedback
    z, memory, u, positions = parts_of(model)
    if "cell_layers" in options:  # the second cell attends over the memory as it is
        first, second = (cell(model.func.layers[i]) for i, cell in ((0, _applied), (1, _applied)))
        wanted = second(first(z, memory, u, positions), memory, u[..., : model.func.layers[1].d_injection], positions)
    else:
        wanted = applied(plain.func, gains * z, gains * memory, u, positions)
    torch.testing.assert_close(applied(model.func, z, memory, u, positions), wanted, rtol=0, atol=1e-13)


def _applied(cell):
    return lambda *parts: applied(cell, *parts)


@torch.no_grad()
@pytest.mark.parametrize("inject", ["residual", "both"])
def test_the_norm_is_over_what_is_added_to_the_state_alone(inject):
    model, plain = tiny(inject=inject, inject_norm=True), tiny(inject=inject)
    plain.load_state_dict(model.state_dict(), strict=False)
    u, raw = (net(*batch(), n_layer=1).memory.u for net in (model, plain))
    x = raw[..., -8:]
    centred = x - x.mean(2, keepdim=True)
    normed = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(u[..., -8:], normed * model.inject_norm.weight + model.inject_norm.bias)
    assert torch.equal(u[..., :-8], raw[..., :-8])


def test_small_gains_make_the_cell_contract_from_the_beginning():
    def steps(flags: str) -> float:
        settings = COMMAND.parse(f"{MODEL} --inject residual {flags}".split())
        torch.manual_seed(0)
        f, z = make_model(COMMAND, settings, 25, torch.device("cpu")).double().problem(batch()[0] % 25, None)
        with torch.no_grad():
            one = f(z)
            two = f(one)
            return ((f(two) - two).norm() / (two - one).norm()).item()

    assert steps("--inject_norm --feedback 0.1") < 0.2 < 0.6 < steps("")


def test_the_gains_begin_at_their_value_and_are_learned():
    settings = COMMAND.parse(f"{MODEL} --inject residual --inject_norm --feedback 0.3".split())
    model = make_model(COMMAND, settings, 25, torch.device("cpu"))
    assert torch.equal(model.func.feedback, torch.full((8,), 0.3))
    tokens, targets = (part % 25 for part in batch())
    model(tokens, targets, None, Applications(2)).nll.mean().backward()
    assert (model.func.feedback.grad != 0).all()
    assert (model.inject_norm.weight.grad != 0).all()


@pytest.mark.parametrize(
    ("of_file", "of_flags", "message"),
    [
        ({"feedback": 0.3}, {}, "`feedback` is left out but the file has gains: pass `feedback`"),
        ({}, {"feedback": 0.3}, "`feedback` is given but the file has no gains: leave `feedback` out"),
        ({"inject_norm": True}, {}, "`inject_norm` is off but the file has it: pass `inject_norm`"),
        ({}, {"inject_norm": True}, "`inject_norm` is on but the file has none: leave `inject_norm` out"),
    ],
)
def test_files_of_other_cells_are_refused(of_file, of_flags, message):
    config = {"inject": "residual", **TINY}
    with torch.device("meta"):
        state = DEQTransformerLM(DEQTransformerConfig(**config, **of_file)).state_dict()
    with pytest.raises(ValueError, match=message):
        DEQTransformerWeights().check(state, DEQTransformerConfig(**config, **of_flags))
    DEQTransformerWeights().check(state, DEQTransformerConfig(**config, **of_file))


def test_a_norm_over_nothing_is_refused():
    with pytest.raises(ValueError, match="`inject_norm` has no effect where `inject` is attention"):
        DEQTransformerConfig(**TINY, inject_norm=True)
