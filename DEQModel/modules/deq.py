"""`DEQModule`: the equilibrium of a map as a layer, with its gradient from the implicit function theorem."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.checks import SHARE, Range, check_choice
from modules.gradients import attach_implicit
from modules.iterate import iterate
from modules.jacobian import jacobian_loss
from modules.parametrizations import parametrizations_apart
from modules.prepare import PREPARATIONS, prepare
from modules.report import SolveInfo, SolveReport, SolverResult
from modules.solver import Solver
from modules.solvers import SOLVERS, make_solver
from modules.state import CastMap, Map, State, StateLayout
from modules.tracker import STOP_MODES, STOP_SCOPES, BatchSum, Tracker, accumulation_dtype, by_row

GRADIENTS = ("implicit", "one_step", "phantom", "unroll")
BACKWARD_STARTS = ("zero", "shine")
CHOICES: dict[str, Collection[str]] = {
    "stop_mode": STOP_MODES,
    "b_stop_mode": STOP_MODES,
    "stop_scope": STOP_SCOPES,
    "grad": GRADIENTS,
    "b_init": BACKWARD_STARTS,
    "prepare": PREPARATIONS,
}
RANGES: dict[str, Range] = {
    "f_thres": Range(least=0),
    "b_thres": Range(least=0),
    "f_eps": Range(least=0),
    "b_eps": Range(least=0),
    "phantom_steps": Range(least=1),
    "phantom_damping": SHARE,
    "f_thres_delta": Range(least=0),
}


class DEQModule(nn.Module):
    """Finds z* = f(z*) and differentiates through it without storing the solver's steps.

    Forward: z* comes from the solver without gradients. Where gradients are enabled, f is applied once more and
    ẑ = f(z*) is returned, so that its graph reaches f's parameters and inputs; where they are not, z* itself is.

    Backward, in the mode "implicit": with ȳ the gradient that arrives at the output, the implicit function theorem asks
    for ȳᵀ (I - ∂f/∂z*)⁻¹ ∂f/∂θ. A hook replaces ȳ by the solution y of

        y = (∂f/∂z*)ᵀ y + ȳ,

    found by the backward solver, before it flows through ẑ's graph. With `b_thres` 0 there is no solve: y is ȳ, or
    what "shine" makes of it. The other modes:

        one_step   y = ȳ, the gradient of a single application (Jacobian-free, arXiv 2103.12803)
        phantom    K damped applications from z*, with their ordinary gradient: (I - ∂f/∂z)⁻¹ is replaced by
                   λ Σ_{k<K} ((1 - λ) I + λ ∂f/∂z)ᵏ (arXiv 2111.05177)
        unroll     f_thres plain applications from z0 instead of a solver, each recomputed on backward, when f must
                   still be the same map; the exact gradient of that iteration. Without gradients the solver is
                   used all the same.

    The module holds settings alone: parameters belong to f, and nothing is kept between calls. It depends on
    `torch.is_grad_enabled()`, not on training mode, but for `f_thres_delta`. Attributes have the arguments' names and
    are read at every call; `solver` and `b_solver` hold the solvers themselves, made of a name and options.

    Args:
        solver, b_solver: names of the forward and backward solvers, keys of `SOLVERS`; None for the same one.
        f_thres, b_thres: thresholds, forward and backward: the largest number of updates (Broyden, fixed_point) or of
            evaluations of f (Anderson).
        f_eps, b_eps: residuals at which the solves have converged.
        stop_mode, b_stop_mode: "rel" or "abs". An absolute backward test lets the gradient's accuracy depend on the
            scale of the loss.
        stop_scope: "batch" stops both solves on the whole batch's residual, "sequence" each sequence on its own, for
            maps whose rows do not depend on each other. A state whose rows do, as a graph's nodes, is a batch of one.
        grad: one of GRADIENTS.
        phantom_steps, phantom_damping: K ≥ 1 and λ in (0, 1].
        b_init: start of the backward solve: "zero" (ȳ after one application), or "shine": the transpose of the forward
            Broyden solve's inverse Jacobian, applied to ȳ (arXiv 2106.00553). That is right in the directions that
            the forward solve went, and may be worse than ȳ in others. Needs solver "broyden" and the scope "batch",
            and keeps that solve's steps until the graph is freed: a state each.
        f_thres_delta: in training mode the forward threshold is drawn from f_thres - delta … f_thres + delta.
        batch_sum: for a part of a divided batch, see `Solver.__call__`: with the scope "batch" both solves then stop
            with those of the other parts, which must go forward and backward alike. Where thresholds are drawn they
            differ from part to part, and every part stops on its own, in both solves.
        f_options, b_options: further options of the solvers, such as {"history": 10} or {"m": 3}. With b_solver None,
            b_options None means f_options.
        prepare: one of PREPARATIONS, the form of f in the forward solve.

    Raises:
        ValueError: unknown names or options, numbers out of range, combinations that make no sense.

    Source: Bai, Kolter and Koltun, Deep Equilibrium Models, arXiv 1909.01377, theorem 1.
    """

    def __init__(
        self,
        *,
        solver: str = "broyden",
        b_solver: str | None = None,
        f_thres: int = 50,
        b_thres: int = 80,
        f_eps: float = 1e-3,
        b_eps: float = 1e-3,
        stop_mode: str = "rel",
        b_stop_mode: str = "rel",
        stop_scope: str = "batch",
        grad: str = "implicit",
        phantom_steps: int = 5,
        phantom_damping: float = 0.5,
        b_init: str = "zero",
        f_thres_delta: int = 0,
        batch_sum: BatchSum | None = None,
        f_options: Mapping[str, Any] | None = None,
        b_options: Mapping[str, Any] | None = None,
        prepare: str = "packed",
    ):
        super().__init__()
        b_solver = b_solver or solver
        inherited = b_options is None and b_solver == solver
        self.solver = _solver("solver", solver, "f_options", f_options)
        self.b_solver = self.solver if inherited else _solver("b_solver", b_solver, "b_options", b_options)
        self.f_thres, self.b_thres, self.f_eps, self.b_eps = f_thres, b_thres, f_eps, b_eps
        self.stop_mode, self.b_stop_mode, self.stop_scope = stop_mode, b_stop_mode, stop_scope
        self.grad, self.phantom_steps, self.phantom_damping = grad, phantom_steps, phantom_damping
        self.b_init, self.f_thres_delta, self.batch_sum = b_init, f_thres_delta, batch_sum
        self.prepare = prepare
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name, numbers in RANGES.items():
            numbers.check(name, getattr(self, name))
        if b_init == "shine" and (solver != "broyden" or stop_scope != "batch"):
            raise ValueError(
                f"`b_init` is 'shine', which shares the Broyden solve of a whole batch, but `solver` is {solver!r} and "
                f"`stop_scope` is {stop_scope!r}: pass `solver` 'broyden' and `stop_scope` 'batch'"
            )

    def extra_repr(self) -> str:
        """The settings."""
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "batch_sum"}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())

    def forward(self, f: Map, z0: State, *, jacobian_samples: int = 0) -> tuple[State, SolveInfo]:
        """Solves z = f(z) from z0.

        Args:
            f: the map, (B, *) -> (B, *) in the same shape, dtype and device, or a map of tuples of such tensors; free
                of side effects: it is called many times. Everything it closes over may require gradients. Under
                autocast its values are cast to the state's dtype. With the scope "sequence", a method `select(rows)`
                that gives the same map for some sequences saves work. A method `pack(z)`, see `prepare`, is used in the
                forward solve.
            z0: the start, a tensor or a tuple; no gradient flows into it. Under autocast the state has at least single
                precision, whatever the start has.
            jacobian_samples: number of vectors for `SolveInfo.jacobian_loss`; without gradients there is none. The
                modes phantom and unroll apply f once more for it.

        Returns:
            ẑ = f(z*) with gradients enabled, z* without; and the reports of the solves. The backward report appears in
            it when `backward` has run.

        Raises:
            ValueError: z0 is no state, or f changes the shape or dtype of its argument.
            RuntimeError: inside transforms of `torch.func` and under forward-mode differentiation; on backward, when
                second derivatives of the implicit gradient are asked for.
        """
        if isinstance(z0, tuple):
            layout = StateLayout.of(z0)
            flat, info = self.forward(layout.flattened(f), layout.flatten(z0), jacobian_samples=jacobian_samples)
            return layout.unflatten(flat), info
        if not (isinstance(z0, Tensor) and z0.is_floating_point() and z0.dim()):
            found = f"{tuple(z0.shape)} {z0.dtype}" if isinstance(z0, Tensor) else f"a {type(z0).__name__}"
            raise ValueError(f"`z0` is {found}: pass a floating-point tensor (B, *), or a tuple of them")
        if torch.is_autocast_enabled(z0.device.type):
            z0 = z0.to(accumulation_dtype(z0))  # f alone runs in low precision
            f = CastMap(f, z0.dtype)
        z0 = z0.detach()
        if not torch.is_grad_enabled():
            result = self._solve_forward(f, z0)
            return result.value, SolveInfo(result.report)
        if self.grad in ("implicit", "one_step"):
            return self._solve_and_apply(f, z0, jacobian_samples)
        if self.grad == "phantom":
            with torch.no_grad(), parametrizations_apart():
                result = self._solve_forward(f, z0)
            output = iterate(f, result.value.detach(), steps=self.phantom_steps, damping=self.phantom_damping).clone()
            info = SolveInfo(result.report)
        else:
            output, report = self._unroll(f, z0)
            info = SolveInfo(report)
        if jacobian_samples:
            z = output.detach().requires_grad_()
            info.jacobian_loss = jacobian_loss(f(z), z, samples=jacobian_samples)
        return output, info

    @property
    def _draws_thresholds(self) -> bool:
        return self.training and self.f_thres_delta > 0

    def _threshold(self) -> int:
        """The forward threshold of one solve."""
        if not self._draws_thresholds:
            return self.f_thres
        delta = int(torch.randint(-self.f_thres_delta, self.f_thres_delta + 1, (), device="cpu"))
        return max(self.f_thres + delta, 0)

    def _scope(self) -> dict[str, Any]:
        """Over what solves stop, as arguments of the solvers and of `Tracker`; only divided batches need a sum."""
        alone = self.batch_sum is None or self._draws_thresholds
        return {"stop_scope": self.stop_scope} | ({} if alone else {"batch_sum": self.batch_sum})

    def _solve_forward(self, f: Map, z0: Tensor) -> SolverResult:
        return self.solver(
            prepare(f, z0, self.prepare),
            z0,
            threshold=self._threshold(),
            eps=self.f_eps,
            stop_mode=self.stop_mode,
            **self._scope(),
        )

    def _solve_and_apply(self, f: Map, z0: Tensor, jacobian_samples: int) -> tuple[Tensor, SolveInfo]:
        """The modes whose graph is that of one application at z*."""
        with torch.no_grad(), parametrizations_apart():
            result = self._solve_forward(f, z0)
        info = SolveInfo(result.report)
        implicit = self.grad == "implicit"
        z_star = result.value.detach().requires_grad_(implicit or jacobian_samples > 0)
        f_star = f(z_star)
        if jacobian_samples:
            info.jacobian_loss = jacobian_loss(f_star, z_star, samples=jacobian_samples)
        return self._implicit(f_star, z_star, result, info) if implicit else f_star.clone(), info

    def _implicit(self, f_star: Tensor, z_star: Tensor, result: SolverResult, info: SolveInfo) -> Tensor:
        solve = None
        if self.b_thres > 0:
            solve = partial(
                self.b_solver,
                threshold=self.b_thres,
                eps=self.b_eps,
                stop_mode=self.b_stop_mode,
                **self._scope(),
            )
        if self.b_init == "shine" and result.jacobian is not None:
            jacobian = result.jacobian

            def guess(grad: Tensor) -> Tensor:
                return jacobian.transposed(by_row(grad)).view_as(grad)

        elif solve is None:
            guess = _unchanged
        else:
            guess = torch.zeros_like

        def finished(report: SolveReport) -> None:
            info.backward = report

        return attach_implicit(f_star, z_star, solve=solve, guess=guess, finished=finished)

    def _unroll(self, f: Map, z0: Tensor) -> tuple[Tensor, SolveReport]:
        steps = self._threshold()
        start = z0.clone()  # a map that works in place must not reach the caller's
        before = iterate(f, start, steps=steps - 1, recompute=True)  # the start where there is one step or none
        z = iterate(f, before, steps=min(steps, 1), recompute=True)
        tracker = Tracker(
            by_row(before.detach()),
            positions=1,
            eps=self.f_eps,
            stop_mode=self.stop_mode,
            first_candidate=0,
            **self._scope(),
        )
        if steps:
            image = by_row(z.detach())
            tracker.record(np.arange(len(z)), tracker.start, image, image - tracker.start)
        counts = {"n_steps": steps, "n_evals": steps, "best_step": steps, "sequence_steps": (steps,) * len(z)}
        return z.clone(), dataclasses.replace(tracker.result().report, **counts)


def _unchanged(grad: Tensor) -> Tensor:
    return grad


def _solver(parameter: str, name: str, options_parameter: str, options: Mapping[str, Any] | None) -> Solver:
    """The solver of this name with these options; messages speak of the parameters that gave them."""
    check_choice(parameter, name, SOLVERS)
    try:
        return make_solver(name, options or {})
    except ValueError as error:
        raise ValueError(f"{options_parameter}: {error}") from None
