"""What a depth costs beside the map that it applies: how often it applies that, its own work and its own memory.

Shape legend: B sequences, N entries of one sequence's state, m columns of a history. Solves take all the steps that
their thresholds allow, as they do with eps 0; one that stops earlier costs less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .anderson import Anderson
from .broyden import FIRST_BLOCK, Broyden
from .cost import NUMBER, Application, Work, passes, product
from .depth import Applications, AsBuilt, Depth
from .deq import DEQModule
from .fixed_point import FixedPoint
from .settings import Settings
from .solver import Solver

# Of each evaluation in the solvers' loop: g = f(z) - z is 3 passes, ‖g‖ and ‖f(z)‖ are one each.
LOOP_PASSES, LOOP_CALLS = 5, 4
DOUBLE = 2  # numbers in one of double precision


NOTHING = Work()


@dataclass(frozen=True)
class SolveCost:
    """A solve beside the map.

    Attributes:
        evaluations: of the map.
        own: the solver's work.
        history: bytes of its past.
    """

    evaluations: int = 0
    own: Work = NOTHING
    history: float = 0


NO_SOLVE = SolveCost()


@dataclass(frozen=True)
class DepthCost:
    """How often one step applies f, and in what way, and what its solves come to.

    Attributes:
        solve: the forward solve, or what an iteration with a graph does beside f.
        b_solve: the backward solve; its evaluations are vector-Jacobian products.
        with_graph: applications whose tensors autograd keeps until the backward pass.
        recomputed: applications that are computed a second time on backward, one after the other.
        from_constant: of those two kinds, how many have a constant for z, to which no gradient goes.
        penalty_apart: whether the Jacobian's penalty applies f once more.
    """

    solve: SolveCost = NO_SOLVE
    b_solve: SolveCost = NO_SOLVE
    with_graph: int = 0
    recomputed: int = 0
    from_constant: int = 0
    penalty_apart: bool = False

    @property
    def graphs(self) -> int:
        """Applications whose tensors are there at once."""
        return self.with_graph + min(self.recomputed, 1)

    def penalty(self, f: Application, samples: float) -> Work:
        """The Jacobian's penalty: each sample is a product vᵀ ∂f/∂z with a graph, whose gradient has two for each of
        its own products; but where v, which is a constant, meets the weight of f's last product itself, it has one. The
        penalised f is that of the one-step or implicit gradient, which then leads to z, or one that is applied for the
        penalty alone, and its last product has then no gradient of its own.
        """
        once_more = self.from_constant * (f.backward - f.to_context)
        if self.penalty_apart:
            once_more = f.forward + f.backward - 2 * f.last
        return once_more + samples * (3 * f.vjp - f.last)


NO_DEPTH = DepthCost()  # of a model whose layers are all that there is


def _broyden(solver: Broyden, threshold: int, n_batch: int, n_state: int) -> SolveCost:
    """Step k ≥ 1 has m = min(k, limit + 1) columns, and reads the history twice:

    ⟨column, (g, newest)⟩   (2, N) × (N, m) a sequence
    Σ weight · column       (1, m) × (m, N)

    The history grows to twice its room whenever that is full, up to limit + 1 columns.

    Beside these: the column is appended (2 passes), (g, newest) stacked (4), g added (3), d scaled (2), z moved (3).
    """
    entries = n_batch * n_state
    own = NOTHING
    for k in range(1, threshold):
        m = _columns(solver, threshold, k)
        own += product(2, n_state, m, count=n_batch) + product(1, m, n_state, count=n_batch)
        own += passes(entries, 2 + 4 + 3 + 2 + 3, 25)
    room = FIRST_BLOCK
    while room < _columns(solver, threshold, threshold):
        room *= 2
    room = min(room, _columns(solver, threshold, threshold + 1))
    return SolveCost(threshold + 1, own, NUMBER * entries * room)


def _columns(solver: Broyden, threshold: int, steps: int) -> int:
    """m after so many steps: a pair of successive steps more than the limit has one column more."""
    limit = max(1, min(threshold, solver.history or threshold))
    return min(steps, limit + 1)


def _anderson(solver: Anderson, threshold: int, n_batch: int, n_state: int) -> SolveCost:
    """Step k has n = min(k, m) columns of G and of F:

    a row of G Gᵀ    (1, N) × (N, n) a sequence
    αᵀF              (1, n) × (n, N), from the second step on; with β < 1 αᵀG likewise

    Beside these: F and G are stored (2 passes each); with β < 1 the two are mixed (5).
    """
    entries = n_batch * n_state
    own = NOTHING
    for k in range(1, threshold):
        n = min(k, solver.m)
        own += product(1, n_state, n, count=n_batch) + passes(entries, 4, 20)
        if k > 1:
            mixes = 1 if solver.beta == 1 else 2
            own += mixes * product(1, n, n_state, count=n_batch) + passes(entries, 5 * (mixes - 1), 4 * (mixes - 1))
    return SolveCost(threshold, own, NUMBER * 2 * solver.m * entries if threshold else 0)


def _fixed_point(solver: FixedPoint, threshold: int, n_batch: int, n_state: int) -> SolveCost:
    """z + damping · g: 5 passes, none without damping."""
    step = NOTHING if solver.damping == 1 else passes(n_batch * n_state, 5, 2)
    return SolveCost(threshold + 1, threshold * step)


SOLVER_COSTS: Mapping[type[Solver], Callable[..., SolveCost]] = {
    Broyden: _broyden,
    Anderson: _anderson,
    FixedPoint: _fixed_point,
}


def solve_cost(solver: Solver, threshold: int, n_batch: int, n_state: int) -> SolveCost:
    """A solve for states (B, N) that takes all steps of its threshold."""
    cost = SOLVER_COSTS[type(solver)](solver, threshold, n_batch, n_state)
    loop = cost.evaluations * passes(n_batch * n_state, LOOP_PASSES, LOOP_CALLS)
    return SolveCost(cost.evaluations, cost.own + loop, cost.history)


def _one_step(settings: Settings, n_batch: int, n_state: int) -> DepthCost:
    """The solve, f once more with its graph; where the gradient is implicit a solve of products with its Jacobian."""
    solve = solve_cost(settings.solver, settings.f_thres, n_batch, n_state)
    shine = settings.b_init == "shine"
    if settings.grad == "one_step" or not (settings.b_thres or shine):
        return DepthCost(solve, with_graph=1, from_constant=1)
    b_solve = NO_SOLVE
    if settings.b_thres:
        b_solve = solve_cost(settings.backward_solver, settings.b_thres, n_batch, n_state)
        add = b_solve.evaluations * passes(n_batch * n_state, 3, 1)  # yᵀ ∂f/∂z + ȳ
        b_solve = SolveCost(b_solve.evaluations, b_solve.own + add, b_solve.history)
    if shine:  # x + Σ c s, c of ⟨s, x⟩: the forward history twice more, which is kept until then
        m = _columns(settings.solver, settings.f_thres, settings.f_thres)
        guess = product(1, n_state, m, count=n_batch) + product(1, m, n_state, count=n_batch)
        history = b_solve.history + solve.history
        b_solve = SolveCost(b_solve.evaluations, b_solve.own + guess, history)
    return DepthCost(solve, b_solve, with_graph=1)


def _phantom(settings: Settings, n_batch: int, n_state: int) -> DepthCost:
    """The solve, then K damped applications with their graph; the first one starts at a constant."""
    solve = solve_cost(settings.solver, settings.f_thres, n_batch, n_state)
    damped = 0 if settings.phantom_damping == 1 else settings.phantom_steps
    lerp = damped * passes(n_batch * n_state, 3 + 4, 3)  # and its gradient
    solve = SolveCost(solve.evaluations, solve.own + lerp, solve.history)
    return DepthCost(solve, with_graph=settings.phantom_steps, from_constant=1, penalty_apart=True)


def _unroll(settings: Settings, n_batch: int, n_state: int) -> DepthCost:
    """T applications from z0, each computed twice; a state is kept of each, and its residual is measured."""
    steps = settings.f_thres
    own = steps * passes(n_batch * n_state, LOOP_PASSES, LOOP_CALLS)
    solve = SolveCost(0, own, NUMBER * steps * n_batch * n_state)
    return DepthCost(solve, recomputed=steps, from_constant=min(steps, 1), penalty_apart=True)


def _reversible(settings: Settings, n_batch: int, n_state: int) -> DepthCost:
    """T steps of two half-steps, each with an application that is computed twice; all but the residual is in double
    precision. A half-step mixes (5 passes), rounds to the grid (8) and settles what rounding took (10); undoing it is
    10 more. Two pairs of states are kept, and of each half-step a byte an entry at most.
    """
    half_steps = 2 * settings.f_thres
    entries = n_batch * n_state
    own = half_steps * passes(DOUBLE * entries, 5 + 8 + 10 + 10, 60)
    own += settings.f_thres * passes(entries, LOOP_PASSES, LOOP_CALLS)
    solve = SolveCost(0, own, 4 * DOUBLE * NUMBER * entries + half_steps * entries)
    return DepthCost(solve, recomputed=half_steps, from_constant=min(half_steps, 1), penalty_apart=True)


GRADIENT_COSTS: Mapping[str, Callable[[Settings, int, int], DepthCost]] = {
    "implicit": _one_step,
    "one_step": _one_step,
    "phantom": _phantom,
    "unroll": _unroll,
    "reversible": _reversible,
}


def depth_cost(
    depth: Depth, n_batch: int, n_state: int, *, training: bool, start_is_constant: bool = True
) -> DepthCost:
    """What a depth does to states (B, N), in a training step or, without gradients, in an evaluation.

    Args:
        depth: of which there are formulas.
        n_batch, n_state: B and N.
        training: whether there is a backward pass.
        start_is_constant: whether no gradient goes to the start; to that of a `DEQModule` none ever does.

    Raises:
        ValueError: a depth of another kind.
    """
    if isinstance(depth, AsBuilt):
        return NO_DEPTH
    if isinstance(depth, Applications):
        if training:
            return DepthCost(with_graph=depth.n, from_constant=int(start_is_constant))
        return DepthCost(SolveCost(depth.n))
    if not isinstance(depth, DEQModule):
        raise ValueError(f"there are no formulas for the cost of a {type(depth).__name__}")
    settings = depth.settings
    if training:
        return GRADIENT_COSTS[settings.grad](settings, n_batch, n_state)
    return DepthCost(solve_cost(settings.solver, settings.f_thres, n_batch, n_state))
