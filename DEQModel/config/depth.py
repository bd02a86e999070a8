"""How deep a run's settings ask its model to go."""

from typing import Any

from config.settings import Settings, shared_with
from modules.depth import Applications, Depth, DepthSchedule
from modules.deq import DEQModule
from modules.settings import NAMES
from modules.solvers import make_solver
from modules.tracker import BatchSum
from system.flag import SolverOption, flags_of


def equilibrium(settings: Settings, *, batch_sum: BatchSum | None = None, training: bool = False) -> DEQModule:
    """The solves that settings ask for.

    Args:
        settings: of the run; those that `DEQModule` has under the same names, and the options of the solvers.
        batch_sum: where the batches are divided among several processes.
        training: thresholds are drawn, where the settings ask for that.

    Raises:
        ValueError: they contradict each other.
    """
    b_solver = settings.b_solver or settings.solver
    f_options, b_options = _options(settings, settings.solver), _options(settings, b_solver)
    for solver, options in ((settings.solver, f_options), (b_solver, b_options)):
        make_solver(solver, options)  # its mistakes name the option alone, where the module puts `f_options` before it
    return DEQModule(
        **shared_with(settings, NAMES),
        f_thres_delta=settings.rand_f_thres_delta if training else 0,
        f_options=f_options,
        b_options=b_options,
        batch_sum=batch_sum,
    )


def _options(settings: Settings, solver: str) -> dict[str, Any]:
    """The options of a solver that settings name, as its constructor takes them."""
    named = _solver_options(settings).items()
    return {which.option: getattr(settings, name) for name, which in named if which.solver == solver}


def reported_options(settings: Settings) -> dict[str, Any]:
    """The options of all solvers that settings name, as reports call them."""
    return {which.label: getattr(settings, name) for name, which in _solver_options(settings).items()}


def _solver_options(settings: Settings) -> dict[str, SolverOption]:
    """Setting -> the option of a solver that it is."""
    return {name: flag.solver_option for name, flag in flags_of(settings).items() if flag.solver_option}


def training_depth(settings: Settings, *, batch_sum: BatchSum | None = None) -> DepthSchedule:
    """What each update does: the shallow stage, then the equilibrium."""
    return stages(settings, equilibrium(settings, batch_sum=batch_sum, training=True))


def validation_depth(settings: Settings) -> DepthSchedule:
    """What a validation after an update does: as that, without drawing thresholds."""
    return stages(settings, equilibrium(settings))


def evaluation_depth(settings: Settings) -> Depth:
    """What --eval does."""
    return Applications(settings.eval_n_layer) if settings.evaluates_shallow else equilibrium(settings)


def stages(settings: Any, solves: DEQModule) -> DepthSchedule:
    """The shallow stage that settings ask for, then `solves`."""
    if settings.pretrain_steps == 0:
        return DepthSchedule(((0, solves),))
    return DepthSchedule(((0, Applications(settings.n_layer)), (settings.pretrain_steps, solves)))
