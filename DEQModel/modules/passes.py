"""One call of a `DEQModule`: the solve, and by kind of gradient the graph that its result gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from .checks import check_image, check_no_transform
from .gradients import Graph, attach_implicit
from .iterate import iterate
from .jacobian import jacobian_loss
from .ladder import lowered
from .leaves import SameValues, Unchanged, mark
from .loop import Callback
from .parametrizations import WeightCache
from .prepare import prepare, prepare_adjoint
from .report import SolveInfo, SolveReport, SolverResult
from .reversible import ReversibleIteration
from .settings import Settings
from .state import Map
from .tracker import BatchSum, by_row
from .trail import Trail


@dataclass
class Pass:
    """What one call of a `DEQModule` asks for, on states (B, *) that are tensors.

    Args:
        settings: how to solve and to differentiate.
        threshold: of the forward solve.
        batch_sum: see `Solver.__call__`; None for an undivided batch.
        jacobian_samples: number of vectors for the Jacobian's penalty.
        iterates: indices of iterates that are asked for too.
        callback: see `Solver.__call__`.
        sequence_traces: whether reports have a trace of each sequence.
    """

    settings: Settings
    threshold: int
    batch_sum: BatchSum | None = None
    jacobian_samples: int = 0
    iterates: Sequence[int] = ()
    callback: Callback | None = None
    sequence_traces: bool = False
    weights: WeightCache = field(default_factory=lambda: WeightCache(shared=True))

    def run(self, f: Map, z0: Tensor) -> tuple[Tensor, SolveInfo]:
        """The state, with a graph where gradients are enabled, and how it was solved for."""
        if not torch.is_grad_enabled():
            result = self._solve(f, z0)
            return result.value, SolveInfo(result.report, iterates=result.iterates)
        with self.weights:
            return GRADIENT_PASSES[self.settings.grad](self, f, z0)

    @property
    def _scope(self) -> dict[str, Any]:
        """Over what solves stop, as arguments of the solvers and of `Tracker`; only divided batches need a sum."""
        summed = {} if self.batch_sum is None else {"batch_sum": self.batch_sum}
        return {"stop_scope": self.settings.stop_scope} | summed

    def _solve(self, f: Map, z0: Tensor) -> SolverResult:
        with torch.no_grad(), WeightCache(shared=False):
            prepared = partial(prepare, how=self.settings.prepare)
            return self.settings.solver(
                prepared(f, z0),
                z0,
                threshold=self.threshold,
                eps=self.settings.f_eps,
                stop_mode=self.settings.stop_mode,
                iterates=self.iterates,
                callback=self.callback,
                sequence_traces=self.sequence_traces,
                **self._scope,
                low=lowered(f, z0, self.settings.amp, prepared),
            )

    def _add_jacobian_loss(self, f: Map, output: Tensor, info: SolveInfo) -> None:
        if self.jacobian_samples:
            z = output.detach().requires_grad_()
            info.jacobian_loss = jacobian_loss(f(z), z, samples=self.jacobian_samples)

    # -- the graph of one application at z*, or of a few from there

    def one_step(self, f: Map, z0: Tensor) -> tuple[Tensor, SolveInfo]:
        """f(z*), with the gradient of that application, replaced by the implicit one where that is asked for."""
        result = self._solve(f, z0)
        info = SolveInfo(result.report)
        # without a backward solve the implicit gradient is that of the application
        solves = self.settings.b_thres > 0 or self.settings.b_init == "shine"
        implicit = self.settings.grad == "implicit" and solves
        z_star = result.value.detach().requires_grad_(implicit or self.jacobian_samples > 0)
        number = mark()
        f_star = f(z_star)
        check_image(f_star, tuple(z0.shape), z0.dtype)
        if self.jacobian_samples:
            info.jacobian_loss = jacobian_loss(f_star, z_star, samples=self.jacobian_samples)
        same = Unchanged.since(number, f_star) if implicit else Unchanged(())
        output = self._implicit(f, f_star, z_star, result, info, same) if implicit else f_star.clone()
        info.iterates = self._from_iterates(f, result, output)
        return output, info

    def _from_iterates(self, f: Map, result: SolverResult, output: Tensor) -> tuple[Tensor, ...]:
        """f of the iterates that were asked for; the output where the solve ended before one."""
        before_end = [index <= result.report.n_steps for index in self.iterates]
        pairs = zip(result.iterates, before_end, strict=True)
        return tuple(f(z).clone() if before else output.clone() for z, before in pairs)

    def _implicit(
        self, f: Map, f_star: Tensor, z_star: Tensor, result: SolverResult, info: SolveInfo, same: Unchanged
    ) -> Tensor:
        settings, solve = self.settings, None
        if settings.b_thres > 0:
            solve = partial(
                settings.backward_solver,
                threshold=settings.b_thres,
                eps=settings.b_eps,
                stop_mode=settings.b_stop_mode,
                sequence_traces=self.sequence_traces,
                **self._scope,
            )
        if settings.b_init == "shine" and result.jacobian is not None:
            jacobian = result.jacobian

            def guess(grad: Tensor) -> Tensor:
                return jacobian.transposed(by_row(grad)).view_as(grad)

        elif solve is None:
            guess = _unchanged
        else:
            guess = torch.zeros_like

        def finished(report: SolveReport) -> None:
            info.backward = report

        adjoint = partial(prepare_adjoint, how=settings.prepare, n_products=settings.b_thres)
        low = partial(lowered, f, amp=settings.amp, prepared=lambda low, z: adjoint(low, z) or low)
        return attach_implicit(
            f_star,
            z_star,
            solve=solve,
            guess=guess,
            finished=finished,
            # f is evaluated again on backward, unless it is another map by then: the graph that is there is still right
            fast_graph=lambda: None if same.changed else self._graph(partial(adjoint, f), z_star),
            low_graph=lambda: None if same.changed else self._graph(low, z_star),
        )

    def _graph(self, make: Callable[[Tensor], Map | None], z_star: Tensor) -> Graph | None:
        """Of the map that is made for z_star, applied to it; None where there is none."""
        z = z_star.detach().requires_grad_()
        another = make(z)
        if another is None:
            return None
        with torch.enable_grad(), self.weights:
            value = another(z)
        return (get_gradient_edge(value), z) if value.requires_grad else None

    def phantom(self, f: Map, z0: Tensor) -> tuple[Tensor, SolveInfo]:
        """K damped applications from z*."""
        result = self._solve(f, z0)
        applied = partial(iterate, f, steps=self.settings.phantom_steps, damping=self.settings.phantom_damping)
        output = applied(result.value).clone()
        info = SolveInfo(result.report, iterates=self._from_iterates(applied, result, output))
        self._add_jacobian_loss(f, output, info)
        return output, info

    # -- the graph of the iteration itself, of which f's own tensors are left out

    def unroll(self, f: Map, z0: Tensor) -> tuple[Tensor, SolveInfo]:
        """Plain applications from z0, each computed again on backward."""
        trail = self._trail(z0, first_candidate=max(self.threshold - 1, 0))
        z, number, guard = z0.clone(), mark(), Unchanged(())  # a map that works in place must not reach the caller's
        kept = {}
        for k in range(self.threshold):
            if k in self.iterates:
                kept[k] = z
            apply = partial(self._recomputed, f, z, last=k == self.threshold - 1)
            if k == 0:
                fz = self._first(apply, f, z)
                guard = Unchanged.since(number, fz)
            else:
                fz = apply()
            trail.saw(z, fz)
            z = fz if fz.requires_grad else fz.clone()  # then f may use its memory again
        return self._iterated(f, trail, z, kept, guard, steps=self.threshold, n_evals=self.threshold)

    def _trail(self, z0: Tensor, *, first_candidate: int, stops: bool = False) -> Trail:
        return Trail(
            z0,
            callback=self.callback,
            sequence_traces=self.sequence_traces,
            stops=stops,
            first_candidate=first_candidate,
            eps=self.settings.f_eps,
            stop_mode=self.settings.stop_mode,
            **self._scope,
        )

    def _recomputed(self, f: Map, z: Tensor, *, last: bool) -> Tensor:
        """f(z); the last one is the first that is computed again, and shows whether f is still the same."""
        return iterate(SameValues(f) if last else f, z, steps=1, recompute=True, around=self.weights)

    def reversible(self, f: Map, z0: Tensor) -> tuple[Tensor, SolveInfo]:
        """Steps of the reversible iteration, until its residual meets the stop rule or the threshold."""
        trail = self._trail(z0, first_candidate=0, stops=self.settings.f_eps > 0)
        iteration = ReversibleIteration(f, z0, beta=self.settings.rev_beta, around=self.weights)
        number, guard, kept, steps = mark(), Unchanged(()), {}, 0
        for steps in range(self.threshold + 1):
            if steps in self.iterates:
                kept[steps] = iteration.z
            if steps == self.threshold:
                break
            z = iteration.z
            if steps == 0:
                fz = self._first(iteration.evaluate, f, z)
                guard = Unchanged.since(number, fz)
            else:
                fz = iteration.evaluate()
            if trail.saw(z, fz):
                break
            is_open = trail.is_open()
            iteration.advance(fz, is_open)
            iteration.advance(iteration.evaluate(), is_open)
        n_evals = min(2 * steps + 1, 2 * self.threshold)
        return self._iterated(f, trail, iteration.z, kept, guard, steps=steps, n_evals=n_evals)

    def _first(self, evaluate: Callable[[], Tensor], f: Map, z: Tensor) -> Tensor:
        """The first f(z), which is to be computed again on backward.

        Parametrized weights that it computed would be missed there, as they are kept. So they are computed outside.
        """
        known = len(self.weights.tensors)
        fz = evaluate()
        check_no_transform(fz)
        check_image(fz, tuple(z.shape), z.dtype)
        if len(self.weights.tensors) > known:
            self.weights.forget_all_but(known)
            f(z.clone())
            fz = evaluate()
        return fz

    def _iterated(
        self,
        f: Map,
        trail: Trail,
        z: Tensor,
        kept: dict[int, Tensor],
        guard: Unchanged,
        *,
        steps: int,
        n_evals: int,
    ) -> tuple[Tensor, SolveInfo]:
        output = guard.watch(z.clone())
        iterates = tuple(guard.watch(kept.get(index, z).clone()) for index in self.iterates)
        info = SolveInfo(trail.report(steps, n_evals), iterates=iterates)
        self._add_jacobian_loss(f, output, info)
        return output, info


GRADIENT_PASSES: dict[str, Callable[[Pass, Map, Tensor], tuple[Tensor, SolveInfo]]] = {
    "implicit": Pass.one_step,
    "one_step": Pass.one_step,
    "phantom": Pass.phantom,
    "unroll": Pass.unroll,
    "reversible": Pass.reversible,
}


def _unchanged(grad: Tensor) -> Tensor:
    return grad
