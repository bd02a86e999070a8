"""How deep a run's settings ask its model to go."""

from dataclasses import replace
from typing import Any

from config.settings import Settings, shared_with
from config.solve_settings import StageSettings
from config.stages import EQUILIBRIUM, stages_of, thresholds_of
from modules.depth import Applications, AsBuilt, Depth, DepthSchedule
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
    """What each update does: the shallow stage and then the equilibrium, or the stages of --depth.

    A stage of solves is divided where --train_thres has another threshold.

    Raises:
        ValueError: the settings contradict each other.
    """
    schedule = _schedule(settings, batch_sum=batch_sum, training=True)
    if not settings.train_thres:
        return schedule
    solves = _solves_by_threshold(settings, batch_sum)
    begins = sorted({first for first, _ in (*schedule.stages, *solves.stages)})
    depths = ((schedule.at(first), solves.at(first)) for first in begins)
    bounded = (solve if isinstance(depth, DEQModule) else depth for depth, solve in depths)
    return DepthSchedule(tuple(zip(begins, bounded, strict=True)))


def _solves_by_threshold(settings: Settings, batch_sum: BatchSum | None) -> DepthSchedule:
    """The solves of training as --train_thres bounds them, whether they are in use or not."""
    thresholds = thresholds_of(settings.train_thres)
    lowest = min(n for _, n in thresholds)
    if settings.rand_f_thres_delta >= lowest:
        raise ValueError(
            f"`rand_f_thres_delta` {settings.rand_f_thres_delta} is not below the threshold {lowest} of `train_thres`: "
            "a solve needs at least one step"
        )
    bounded = ((first, replace(settings, f_thres=n, b_thres=n)) for first, n in thresholds)
    return DepthSchedule(tuple((first, equilibrium(own, batch_sum=batch_sum, training=True)) for first, own in bounded))


def validation_depth(settings: Settings) -> DepthSchedule:
    """What a validation after an update does: as that, without drawing thresholds."""
    return _schedule(settings)


def evaluation_depth(settings: Settings, *, by_sequence: bool = False) -> Depth:
    """What --eval does.

    Args:
        settings: of the model.
        by_sequence: solves stop sequence by sequence, whatever the settings say.
    """
    depth = depth_of(settings, settings.evaluated_applications)
    if by_sequence and isinstance(depth, DEQModule):
        depth.stop_scope = "sequence"
    return depth


def depth_of(settings: Settings, n_applications: int | None) -> Depth:
    """So many applications of the cell; or, for None, the solves of an equilibrium or the layers as they are built."""
    if n_applications is not None:
        return Applications(n_applications)
    return equilibrium(settings) if isinstance(settings, StageSettings) else AsBuilt()


def stages(settings: Any, solves: DEQModule) -> DepthSchedule:
    """The stages of --depth, or the shallow stage and then `solves`.

    Raises:
        ValueError: `depth` says nothing.
    """
    if settings.depth == EQUILIBRIUM and settings.pretrain_steps > 0:
        return DepthSchedule(((0, Applications(settings.n_layer)), (settings.pretrain_steps, solves)))
    found = stages_of(settings.depth)
    return DepthSchedule(tuple((first, solves if n is None else Applications(n)) for first, n in found))


def _schedule(settings: Settings, **of_solves: Any) -> DepthSchedule:
    if not isinstance(settings, StageSettings):
        return DepthSchedule(((0, AsBuilt()),))
    return stages(settings, equilibrium(settings, **of_solves))
