"""The settings that say how deep a model goes: its stages, its solves, their gradient and its stability."""

from dataclasses import dataclass

from config.stages import EQUILIBRIUM, EXAMPLE, THRESHOLDS_EXAMPLE, last_applications, solves_at_all
from modules.ladder import PRECISIONS
from modules.settings import BACKWARD_STARTS, GRADIENTS
from modules.solvers import SOLVERS
from modules.stop_rule import STOP_MODES
from modules.tracker import STOP_SCOPES
from system.flag import AT_THE_BEGINNING, Need, Note, SolverOption, flag


def _with_solver(name: str) -> Need:
    return Need(f"--solver or --b_solver {name}", lambda s: name in (s.solver, s.b_solver))


IMPLICIT = Need("--grad implicit", lambda s: s.grad == "implicit")
REVERSIBLE = Need("--grad reversible", lambda s: s.grad == "reversible")
PHANTOM = Need("--grad phantom", lambda s: s.grad == "phantom")
PENALTY = Need("--jac_loss_weight", lambda s: s.jac_loss_weight > 0)
A_SOLVE = Need("a solver (--grad implicit, one_step or phantom)", lambda s: s.grad not in ("unroll", "reversible"))
SHALLOW = Need("--pretrain_steps", lambda s: s.pretrain_steps > s.start_train_steps)
AN_EQUILIBRIUM = f"an equilibrium (--depth {EQUILIBRIUM}, --pretrain_steps 0)"
WITHOUT_STAGES = Need(f"--depth {EQUILIBRIUM}", lambda s: s.depth == EQUILIBRIUM)  # --depth has its own
SOLVED = Need(f"--depth {EQUILIBRIUM}", lambda s: solves_at_all(s.depth))


@dataclass(frozen=True)
class StageSettings:
    """How deep a model goes where it does not solve, and when it does."""

    depth: str = flag(
        EQUILIBRIUM,
        "equilibrium, or a number: so many applications of the cell, with ordinary backpropagation, in the whole run "
        f"and in --eval; or first step and depth of each stage, as in {EXAMPLE}",
        listed=False,
        note=Note(lambda s: not solves_at_all(s.depth), "there are no solves; the solver and its flags are not used"),
        scored=True,
    )
    n_layer: int = flag(12, "applications of the cell in the shallow stage", least=1, serves=SHALLOW)
    eval_n_layer: int = flag(12, "applications of the cell when --eval evaluates a shallow model", least=1, scored=True)
    pretrain_steps: int = flag(
        0,
        "the shallow stage lasts while the step's number is below this",
        least=0,
        note=Note(
            lambda s: s.pretrain_steps >= s.max_step,
            "the whole run is shallow; the solver and its flags are not used",
            beside="max_step",
        ),
        needs=(WITHOUT_STAGES,),
        scored=True,
    )
    train_thres: str = flag(
        "",
        "in training, the threshold of solves, forward and backward, in place of --f_thres and --b_thres, which "
        f"validations and tests keep: a number, or first step and threshold of each stage, as in {THRESHOLDS_EXAMPLE}",
        listed=False,
        needs=(SOLVED,),
    )
    start_train_steps: int = flag(0, "number of the first step", least=0, fixed=AT_THE_BEGINNING, scored=True)

    spectral_radius: bool = flag(
        False,
        "evaluations estimate the spectral radius of the equilibrium's Jacobian too, on 10 segments",
        listed=False,
        needs=(SOLVED, Need(AN_EQUILIBRIUM, lambda s: not (s.eval and s.evaluates_shallow))),
    )

    @property
    def evaluates_shallow(self) -> bool:
        """Whether --eval applies the cell a number of times, and does not solve."""
        return not self.depth.endswith(EQUILIBRIUM) or 0 <= self.start_train_steps < self.pretrain_steps

    @property
    def evaluated_applications(self) -> int | None:
        """That number, of the last stage of --depth, or --eval_n_layer; None where --eval solves.

        Raises:
            ValueError: --depth says nothing.
        """
        return (last_applications(self.depth) or self.eval_n_layer) if self.evaluates_shallow else None


class DepthAsBuilt:
    """In place of the settings of stages, solves and gradients where a model goes as deep as it is built."""

    pretrain_steps = start_train_steps = rand_f_thres_delta = f_thres = 0
    evaluates_shallow = spectral_radius = False
    train_thres = ""
    evaluated_applications = None
    jac_loss_weight, jac_loss_freq, jac_incremental, jac_samples = 0.0, 1.0, 0, 1


@dataclass(frozen=True)
class SolveSettings:
    """The solves. Ranges are those of `DEQModule`."""

    solver: str = flag("anderson", "fixed-point solver", choices=tuple(SOLVERS), sweeps=True, serves=A_SOLVE)
    stop_mode: str = flag(
        "rel",
        "relative or absolute residual in the forward solve",
        choices=tuple(STOP_MODES),
        sweeps=True,
        serves=A_SOLVE,
    )
    b_stop_mode: str = flag(
        "rel", "the same in the backward solve", choices=tuple(STOP_MODES), listed=False, serves=IMPLICIT
    )
    stop_scope: str = flag(
        "batch",
        "whose residual stops the solves: the whole batch's, or each sequence's its own",
        choices=tuple(STOP_SCOPES),
        listed=False,
        sweeps=True,
        serves=A_SOLVE,
    )
    b_solver: str | None = flag(
        None,
        "solver of the backward solve (default: that of --solver)",
        kind=str,
        choices=tuple(SOLVERS),
        listed=False,
        serves=IMPLICIT,
    )
    f_history: int | None = flag(
        None,
        "updates that a Broyden estimate is made of, the newest (default: all)",
        kind=int,
        listed=False,
        needs=(_with_solver("broyden"),),
        sweeps=True,
        solver_option=SolverOption("broyden", "history", label="history"),
    )
    anderson_ridge: float | None = flag(
        None,
        "absolute ridge of Anderson's systems, 1e-4 as published (default: one relative to the system)",
        kind=float,
        listed=False,
        needs=(_with_solver("anderson"),),
        sweeps=True,
        solver_option=SolverOption("anderson", "lam", label="ridge"),
    )
    f_thres: int = flag(
        50,
        "solver threshold, forward: steps; with anderson evaluations of the cell, which are one more than its steps",
        sweeps=True,
    )
    b_thres: int = flag(80, "solver threshold, backward, counted likewise", serves=IMPLICIT)
    f_eps: float = flag(
        1e-3, "residual at which the forward solve has converged", listed=False, sweeps=True, serves=A_SOLVE
    )
    b_eps: float = flag(1e-3, "residual at which the backward solve has converged", listed=False, serves=IMPLICIT)
    amp: str = flag(
        "off",
        "precision in which solves begin: bf16 for bfloat16 down to its noise, then single precision, which keeps the "
        "equilibrium's accuracy; pays where products in bfloat16 are faster, as on GPUs",
        choices=PRECISIONS,
        listed=False,
        sweeps=True,
        serves=A_SOLVE,
    )
    rand_f_thres_delta: int = flag(
        0,
        "in training, each forward solve's threshold is drawn from --f_thres minus to plus this",
        least=0,
        listed=False,
        needs=(Need("a solver in training (any --grad but unroll)", lambda s: s.grad != "unroll"),),
    )


@dataclass(frozen=True)
class GradientSettings:
    """The gradient of an equilibrium, and what keeps that stable."""

    grad: str = flag(
        "implicit",
        "gradient of the equilibrium: implicit differentiation, one application of the cell, --phantom_steps damped "
        "ones, or in place of a solve --f_thres plain ones (unroll) or steps of an iteration that can be run backwards "
        "and so needs a fraction of that memory (reversible)",
        choices=tuple(GRADIENTS),
        listed=False,
        scored=True,
    )
    phantom_steps: int = flag(5, "steps of --grad phantom", listed=False, needs=(PHANTOM,))
    phantom_damping: float = flag(0.5, "damping of --grad phantom, at most 1", listed=False, needs=(PHANTOM,))
    rev_beta: float = flag(
        0.8, "damping of --grad reversible, between 0 and 1", listed=False, needs=(REVERSIBLE,), scored=True
    )
    b_init: str = flag(
        "zero",
        "start of the backward solve: zero, or the forward solve's inverse Jacobian applied to the gradient",
        choices=tuple(BACKWARD_STARTS),
        listed=False,
        needs=(IMPLICIT,),
    )
    jac_loss_weight: float = flag(
        0.0,
        "weight of the penalty on the equilibrium's Jacobian, 0 means none; published are 1.6 to 2",
        least=0,
        below=1e38,
        listed=False,
    )
    jac_loss_freq: float = flag(
        0.4,
        "probability that an update has the penalty",
        above=0,
        below=1,
        or_exactly=1,
        listed=False,
        needs=(PENALTY,),
    )
    jac_incremental: int = flag(
        0,
        "steps after which --jac_loss_weight rises by 0.1, again and again; 0 means never",
        least=0,
        listed=False,
        needs=(PENALTY,),
    )
    jac_samples: int = flag(1, "random vectors v of the penalty", least=1, listed=False, needs=(PENALTY,))
