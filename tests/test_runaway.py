"""CONVERGED means an equilibrium: maps whose state runs away meet the relative test and are told apart."""

import pytest
import torch
import torch.nn.functional as F
from problems import PROBLEMS

from models.transformers.config import DEQTransformerConfig
from models.transformers.model import DEQTransformerLM
from modules.deq import DEQModule
from modules.report import Termination
from modules.solvers import SOLVERS

D = 16
SCALES = {"small": 0.1, "middle": 0.3, "large": 0.8}


def residual_map(seed, scale):
    """z + tanh(LN(z) W + b): its residual depends on the direction of z alone, and so never falls as z grows."""
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(D, D, generator=generator)
    bias = 0.5 * torch.randn(D, generator=generator)
    return lambda z: z + torch.tanh(F.layer_norm(z, (D,)) @ weight + bias)


def pre_lnorm_problem(seed, scale, **options):
    torch.manual_seed(seed)
    sizes = {"n_token": 50, "n_head": 2, "d_head": 8, "d_model": 16, "d_inner": 32, "d_embed": 16, "mem_len": 4}
    model = DEQTransformerLM(DEQTransformerConfig(**sizes, pre_lnorm=True, **options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    with torch.no_grad():
        return model.problem(torch.randint(50, (8, 3)), None)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_state_that_runs_away_has_not_converged(solver, scale, scope):
    for seed in range(4):
        f = residual_map(seed, SCALES[scale])
        for start in (torch.zeros(3, D), torch.randn(3, D, generator=torch.Generator().manual_seed(seed))):
            report = SOLVERS[solver]()(f, start, threshold=150, eps=1e-2, stop_scope=scope).report
            ends = {*report.sequence_terminations, report.termination}
            assert not ends & {Termination.CONVERGED, Termination.STAGNATED}
            assert report.n_unconverged == 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_so_it_is_with_the_pre_lnorm_cell(solver):
    ends = [
        SOLVERS[solver]()(*pre_lnorm_problem(seed, scale), threshold=150, eps=1e-2).report.termination
        for seed in range(6)
        for scale in SCALES.values()
    ]
    assert ends.count(Termination.RUNAWAY) >= 14
    assert {*ends} <= {Termination.RUNAWAY, Termination.MAX_STEPS}


@pytest.mark.slow
@pytest.mark.parametrize("grad", ["implicit", "one_step", "phantom", "unroll", "reversible"])
@pytest.mark.parametrize("stop_mode", ["rel", "abs"])
def test_in_every_mode(grad, stop_mode):
    f = residual_map(0, 0.3)
    deq = DEQModule(grad=grad, solver="fixed_point", stop_mode=stop_mode, f_thres=2000, f_eps=2e-3, b_thres=0)
    _, info = deq(lambda z: f(z), torch.zeros(3, D))
    assert info.forward.termination is Termination.RUNAWAY


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_comes_back_is_the_iterate_that_met_the_test_first(solver):
    """As it was before such states were told apart; those that went further out are no better."""
    report = SOLVERS[solver]()(residual_map(0, 0.3), torch.zeros(3, D), threshold=400, eps=1e-2).report
    assert report.termination is Termination.RUNAWAY
    first = next(k for k, residual in enumerate(report.rel_trace) if k and residual < 1e-2)
    lower = [k for k in range(first, report.n_evals) if report.abs_trace[k] < 0.9 * report.abs_trace[first]]
    assert report.best_step == first or report.best_step in lower
    assert report.n_steps < 60 or solver == "fixed_point"


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("solver", SOLVERS)
def test_slow_maps_that_converge_are_left_alone(solver, factor):
    """z ← c z + 1 from 0: the state grows a hundredfold and more, but the residual falls as it does."""
    rule = SOLVERS[solver]()
    report = rule(lambda z: factor * z + 1, torch.zeros(1, 2), threshold=3000, eps=1e-3).report
    assert report.termination is Termination.CONVERGED
    if solver == "fixed_point":
        steps = next(k for k in range(3000) if factor**k < 1e-3 * (1 - factor ** (k + 1)) / (1 - factor))
        assert report.n_steps == steps, "as without the rule"


def test_a_map_so_slow_that_the_test_says_nothing_goes_on():
    """Where the relative test is met at a tenth of the way, nobody is told that this was the equilibrium."""
    rule = SOLVERS["fixed_point"]()
    report = rule(lambda z: 0.9999 * z + 1, torch.zeros(1, 2, dtype=torch.float64), threshold=20_000, eps=1e-3).report
    assert report.n_steps > 5000


def test_an_equilibrium_that_was_the_start_is_one():
    f = lambda z: z + torch.tanh(F.layer_norm(z, (D,)))  # noqa: E731
    report = SOLVERS["broyden"]()(f, torch.zeros(2, D), threshold=20).report
    assert report.termination is Termination.CONVERGED
    assert report.abs_residual == 0


@pytest.mark.parametrize("name", ["tanh", "non_normal", "rotation"])
def test_starts_near_an_equilibrium_converge(name):
    problem = PROBLEMS[name](torch.float64).flattened()
    if problem.equilibrium is None:
        pytest.skip("its equilibrium is not known")
    report = SOLVERS["broyden"]()(problem.f, problem.equilibrium + 1e-9, threshold=50, eps=1e-3).report
    assert report.termination is Termination.CONVERGED


@pytest.mark.parametrize(
    ("factor", "eps", "threshold"), [(0.99, 0.01, 900), (0.9, 0.1, 100), (0.95, 0.05, 300), (0.998, 1e-3, 4000)]
)
@pytest.mark.parametrize("grad", ["implicit", "reversible"])
def test_contractions_that_meet_a_loose_test_halfway_go_on(grad, factor, eps, threshold):
    deq = DEQModule(grad=grad, solver="fixed_point", f_thres=threshold, f_eps=eps, b_thres=0, rev_beta=0.5)
    with torch.set_grad_enabled(grad == "reversible"):
        z, info = deq(lambda z: factor * z + 1 - factor, torch.zeros(1, 1, dtype=torch.float64))
    assert info.forward.termination in (Termination.CONVERGED, Termination.STAGNATED)
    assert z.item() > 0.6, "at the first iterate below eps it was at a half"


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_drift_that_rounding_stops_is_no_equilibrium_in_the_absolute_test_either(solver):
    report = SOLVERS[solver]()(lambda z: z + 0.01, torch.zeros(1, 2), threshold=500, eps=1e-3, stop_mode="abs").report
    assert report.termination is not Termination.CONVERGED
