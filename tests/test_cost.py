"""The formulas of --cost beside what PyTorch does: operations that its counter counts, tensors that are really kept."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from costed import B, Costed, L, solves, transformer, transformer_xl, trellisnet
from torch.utils.flop_counter import FlopCounterMode

from costs.machine import GPUS
from costs.scaling import HOP, agreements, all_reduce, counts
from costs.step import StepMemory
from costs.words import Words
from modules.anderson import Anderson, AndersonIteration
from modules.broyden import Broyden, BroydenIteration
from modules.cost import Work, product
from modules.depth import Applications, DepthSchedule
from modules.solve_cost import depth_cost, solve_cost
from utils.adaptive_embedding import bin_edges
from utils.cost import zipf_shares
from utils.optimizer_cost import orthogonalisation, update_cost
from utils.optimizers import OPTIMIZERS

BINS = {"cutoffs": (10, 30), "div_val": 2}
ANDERSON, BROYDEN = solves(solver="anderson"), solves()
MODELS = {
    "post": transformer(),
    "pre": transformer(pre_lnorm=True),
    "outer norm, all dropouts, weight norm": transformer(
        pre_lnorm=True, outer_norm=True, dropout=0.1, dropatt=0.1, wnorm=True
    ),
    "no memory": transformer(mem_len=0),
    "bins of one width": transformer(cutoffs=(10, 30)),
    "bins": transformer(**BINS),
    "bins, untied": transformer(**BINS, tied=False),
    "narrow embedding": transformer(d_embed=6),
    "injection to the state": transformer(inject="residual", inject_norm=True),
    "injection to both": transformer(inject="both", wnorm=True),
    "gains": transformer(feedback=0.3, dropout=0.1),
    "injection to both, gains": transformer(inject="both", inject_norm=True, feedback=0.3, pre_lnorm=True),
    "norms that learn": transformer(norm_affine=True, heads_norm=True),
    "norms that learn, in front": transformer(norm_affine=True, heads_norm=True, pre_lnorm=True),
    "cell of three": transformer(cell_layers=3, dropout=0.1, dropatt=0.1),
    "cell of three, pre, injection to the state": transformer(cell_layers=3, pre_lnorm=True, inject="residual"),
    "cell of two, as torchdeq": transformer(cell_layers=2, pre_lnorm=True, norm_affine=True, heads_norm=True),
    "layers around": transformer(layers_before=2, layers_after=1, wnorm=True),
    "layers around, pre": transformer(layers_before=1, layers_after=2, pre_lnorm=True, norm_affine=True),
    "start at the injection": transformer(z_init="injection"),
    "transformer_xl": transformer_xl(),
    "transformer_xl, pre, all dropouts": transformer_xl(pre_lnorm=True, dropout=0.1, dropatt=0.1, d_inner=100),
    "transformer_xl, no memory, bins": transformer_xl(mem_len=0, **BINS),
    "trellisnet": trellisnet(),
    "trellisnet, three taps": trellisnet(ksize=3, dilation=2, wnorm=True, dropouth=0.1, wdrop=0.1),
    "trellisnet, bins": trellisnet(adaptive=True, **BINS),
    "trellisnet, mixture": trellisnet(n_experts=3, dropoutl=0.1),
}
DEPTHS = {  # and how many of its solves are Broyden's
    "applications": (Applications(3), 0),
    "fixed point": (solves(solver="fixed_point"), 0),
    "anderson": (ANDERSON, 0),
    "anderson, small window": (solves(solver="anderson", f_options={"m": 2, "beta": 0.5}), 0),
    "broyden": (BROYDEN, 2),
    "broyden, history": (solves(f_thres=12, b_thres=11, f_options={"history": 3}), 2),
    "broyden, then anderson": (solves(b_solver="anderson"), 1),
    "shine": (solves(b_init="shine"), 2),
    "no backward solve": (solves(b_thres=0), 1),
    "one step": (solves(grad="one_step"), 1),
    "phantom": (solves(solver="anderson", grad="phantom", phantom_steps=3), 0),
    "unroll": (solves(grad="unroll"), 0),
    "reversible": (solves(grad="reversible"), 0),
}


def uncounted(costed: Costed, n_broyden: int) -> float:
    """Of each Broyden solve the two inner products with a history of one column are no matrix products to PyTorch."""
    return n_broyden * 2 * 2 * costed.cost.f.state


@pytest.mark.parametrize(
    ("depth", "training"),
    [(ANDERSON, True), (Applications(2), True), (ANDERSON, False)],
    ids=["implicit", "applications", "evaluation"],
)
@pytest.mark.parametrize("model", MODELS)
def test_operations_of_a_model_are_those_that_pytorch_counts(model, depth, training):
    costed = Costed.of(MODELS[model], depth, training=training)
    assert costed.predicted() == pytest.approx(costed.counted(), rel=1e-12)


@pytest.mark.parametrize("model", ["post", "trellisnet, three taps"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_operations_of_a_depth_are_those_that_pytorch_counts(depth, model):
    depth, n_broyden = DEPTHS[depth]
    costed = Costed.of(MODELS[model], depth)
    assert costed.predicted() - uncounted(costed, n_broyden) == pytest.approx(costed.counted(), rel=1e-12)


@pytest.mark.parametrize("grad", ["implicit", "one_step", "unroll"])
@pytest.mark.parametrize(
    "model",
    [
        "post",
        "no memory",
        "pre",
        "outer norm, all dropouts, weight norm",
        "injection to both, gains",
        "cell of three, pre, injection to the state",
        "trellisnet",
    ],
)
def test_operations_of_the_jacobian_penalty(model, grad):
    depth = solves(solver="anderson", grad=grad)
    costed = Costed.of(MODELS[model], depth)
    plain, times = costed.counted(), costed.times
    for samples in (1, 2):
        costed.depth = partial(depth, jacobian_samples=samples)
        penalty = times.penalty(costed.cost.f, samples).flops
        assert penalty == pytest.approx(costed.counted(charged=True) - plain, rel=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_bytes_that_autograd_keeps(model):
    """But for what has an entry a position, a channel or a word alone: norms, biases, masks of whole channels."""
    costed = Costed.of(MODELS[model], Applications(3))
    cost = costed.cost
    predicted = cost.embedding.kept + cost.layers.kept + cost.context.kept + 3 * cost.f.kept + cost.head.kept
    assert predicted == pytest.approx(costed.kept(), rel=0.08)
    further = Costed.of(MODELS[model], Applications(4)).kept() - costed.kept()
    assert cost.f.kept == pytest.approx(further, rel=0.05)


@pytest.mark.parametrize(
    ("make", "options", "tables"),
    [
        (transformer, BINS, "out_layers"),
        (transformer_xl, {}, "out_layers"),
        (trellisnet, {"adaptive": True, **BINS}, "out_layers"),
        (trellisnet, {}, "decoder"),
    ],
)
def test_bytes_of_the_gradients_of_shared_tables(make, options, tables):
    tied, untied = (Costed.of(make(tied=tied, **options), ANDERSON) for tied in (True, False))
    n_shared = sum(p.numel() for name, p in untied.model.named_parameters() if tables in name and p.dim() == 2)
    more = tied.cost.head.backward - untied.cost.head.backward
    assert more.moved == 3 * 4 * n_shared > 0


@pytest.mark.parametrize(("threshold", "history"), [(1, None), (5, None), (25, None), (40, None), (30, 4), (30, 12)])
def test_bytes_of_a_broyden_history(threshold, history):
    state = torch.randn(3, 20_000)  # more than is allocated at once
    solver = Broyden(history=history)
    iteration = solver.start(state, threshold)
    assert isinstance(iteration, BroydenIteration)
    for _ in range(threshold):
        iteration.advance(state, state, torch.randn_like(state))
    iteration.finish()
    allocated = sum(block.nbytes for block in iteration.jacobian.steps.blocks)
    assert solve_cost(solver, threshold, *state.shape).history == allocated


def test_bytes_of_an_anderson_window():
    state, solver = torch.randn(3, 200), Anderson(m=4)
    iteration = solver.start(state, 9)
    assert isinstance(iteration, AndersonIteration)
    assert solve_cost(solver, 9, *state.shape).history == iteration.images.nbytes + iteration.residuals.nbytes


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bytes_of_optimizers(name):
    matrix, vector = torch.nn.Parameter(torch.randn(7, 9)), torch.nn.Parameter(torch.randn(9))
    optimizer = OPTIMIZERS[name]([matrix, vector], lr=0.1)
    matrix.grad, vector.grad = torch.randn_like(matrix), torch.randn_like(vector)
    optimizer.step()
    remembered = [value for parameter in (matrix, vector) for value in optimizer.state[parameter].values()]
    entries = sum(value.numel() for value in remembered if value.numel() > 1)  # not the steps' number
    sizes, matrices = ([9], [(7, 9)]) if name == "Muon" else ([63, 9], [])
    assert update_cost(name, sizes, matrices, weight_decay=False).state == entries


@pytest.mark.parametrize("shape", [(7, 9), (9, 7), (4, 3, 2)])
def test_operations_of_muon(shape):
    parameter = torch.nn.Parameter(torch.randn(shape))
    optimizer = OPTIMIZERS["Muon"]([parameter])
    parameter.grad = torch.randn_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    work = orthogonalisation(shape[0], parameter[0].numel())
    assert work.flops == counter.get_total_flops() > 0


def test_weight_decay_and_clipping_move_bytes():
    plain, decayed = (update_cost("SGD", [10, 20], weight_decay=decays).work for decays in (False, True))
    assert plain == Work(0, 0, 4 * 30 * (3 + 3), 2 * 2)
    assert decayed - plain == Work(0, 0, 4 * 30 * 3, 2)


@pytest.mark.parametrize("solver", ["fixed_point", "anderson", "broyden"])
@pytest.mark.parametrize("threshold", [1, 2, 7])
def test_evaluations_are_those_of_the_reports(solver, threshold):
    depth = solves(solver=solver, f_thres=threshold, b_thres=threshold)
    costed = Costed.of(transformer(), depth)
    output = costed.model(costed.tokens, costed.targets, costed.memory, depth)
    output.nll.mean().backward()
    times = costed.times
    evaluations = (output.solve.forward.n_evals, output.solve.backward.n_evals)
    assert (times.solve.evaluations, times.b_solve.evaluations) == evaluations


def test_a_depth_without_formulas_is_refused():
    with pytest.raises(ValueError, match="no formulas for the cost of a DepthSchedule"):
        depth_cost(DepthSchedule(((0, Applications(1)),)), B, L, training=True)


def test_a_product():
    assert product(3, 5, 7, count=2) == Work(2 * 2 * 3 * 5 * 7, 4 * 2 * (15 + 35 + 21), 0, 1)
    assert product(0, 5, 7) == Work()


def test_memory_adds_up():
    costed = Costed.of(transformer(layers_after=1), BROYDEN)
    memory = StepMemory.of(costed.cost, BROYDEN, 1000, 2000, 1)
    assert memory.parameters == memory.gradients == memory.optimizer / 2 == 4000
    assert memory.layers == 4 * costed.cost.layers.kept > 0
    assert memory.whole == sum(vars(memory).values()) > memory.histories > 0


@pytest.mark.parametrize(
    "model", ["post", "layers around", "injection to both", "injection to the state", "transformer_xl"]
)
def test_bytes_that_a_segment_hands_on(model):
    costed = Costed.of(MODELS[model], Applications(1))
    assert costed.cost.memory == sum(part.numel() for part in costed.memory)


def test_zipf_shares_are_those_of_words_drawn_so():
    cutoffs, n_token = (20, 200), 2000
    weights = [1 / (word + 1) for word in range(n_token)]
    edges = bin_edges(n_token, cutoffs)
    exact = [sum(weights[low:high]) / sum(weights) for low, high in pairwise(edges)]
    shares = zipf_shares(n_token, cutoffs)
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx(exact, rel=0.1)


def test_counted_shares():
    words = Words(6, "here", torch.tensor([5, 3, 0, 1, 1, 0]).numpy())
    assert words.shares((2, 5)) == (0.8, 0.2, 0.0)
    assert words.shares(()) == (1.0,)


def test_communication():
    a100 = GPUS["a100"]
    assert all_reduce(a100, 1, 1e9) == 0
    assert all_reduce(a100, 4, 3e11) == pytest.approx(1.5 * 3e11 / 3e11 + 6 * HOP)
    assert all_reduce(a100, 16, 1e9) > 10 * all_reduce(a100, 8, 1e9)  # over the network
    assert agreements(1, 99) == 0 < agreements(2, 99) < agreements(64, 99)
    assert counts(56) == [1, 2, 4, 8, 16, 32, 56]
    assert counts(64)[-1] == 64
