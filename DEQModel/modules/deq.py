"""`DEQModule`: the equilibrium of a map as a layer, with its gradient from the implicit function theorem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo

from .checks import AT_LEAST_ONE, COUNT, check_no_transform
from .loop import Callback
from .passes import Pass
from .report import SolveInfo
from .settings import NAMES, Settings, meant_setting
from .state import CastMap, Map, State, StateLayout
from .tracker import BatchSum, accumulation_dtype


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
        reversible up to f_thres steps of the reversible iteration, of two evaluations each, instead of a solver: its
                   backward pass runs it the other way; the exact gradient of that iteration (arXiv 2509.12917) in the
                   memory of two states and a byte or two an entry and step. Otherwise like "unroll", but that it stops.
                   Reports of these two have the residual of the iterate one step before the result.

    The module holds settings alone: parameters belong to f, and nothing is kept between calls. It depends on
    `torch.is_grad_enabled()`, and on training mode for `f_thres_delta` and `evaluation`. Settings can be read and set
    as attributes; they are checked when they are set, and read at every call.

    Args:
        solver, b_solver: the forward and backward solvers, as keys of `SOLVERS` or themselves; None for the same one.
        f_thres, b_thres: thresholds, forward and backward: the largest number of updates (Broyden, fixed_point; f is
            evaluated once more, to know the residual) or of evaluations of f (Anderson; one update less).
        f_eps, b_eps: residuals at which the solves have converged.
        stop_mode, b_stop_mode: "rel" or "abs". An absolute backward test lets the gradient's accuracy depend on the
            scale of the loss.
        stop_scope: "batch" stops both solves on the whole batch's residual, "sequence" each sequence on its own, for
            maps whose rows do not depend on each other. A state whose rows do, as a graph's nodes, is a batch of one.
        grad: one of GRADIENTS.
        phantom_steps, phantom_damping: K ≥ 1 and λ in (0, 1].
        rev_beta: β in (0, 1) of the reversible iteration.
        b_init: start of the backward solve: "zero" (ȳ after one application), or "shine": the transpose of the forward
            Broyden solve's inverse Jacobian, applied to ȳ (arXiv 2106.00553). That is right in the directions that
            the forward solve went, and may be worse than ȳ in others. Needs solver "broyden" and the scope "batch",
            and keeps that solve's steps until the graph is freed: a state each.
        f_thres_delta: in training mode the forward threshold is drawn from f_thres - delta … f_thres + delta.
        batch_sum: for a part of a divided batch, see `Solver.__call__`: with the scope "batch" both solves then stop
            with those of the other parts, which must go forward and backward alike. Where thresholds are drawn they
            differ from part to part, and every part stops on its own, in both solves.
        f_options, b_options: further options of the solvers, such as {"history": 10} or {"m": 3}. With b_solver None,
            or the name of the forward solver, b_options None means f_options.
        prepare: one of PREPARATIONS, the form of f in the solves.
        amp: one of PRECISIONS. With "bf16" both solves begin with f in bfloat16 and go on in single precision from
            where bfloat16 cannot tell residuals from its own rounding: what they return is as exact as without. A
            method `f.cast(dtype)`, the same map in another dtype, is used where f has it, and else autocast.
        evaluation: settings that hold instead while the module is in evaluation mode, by name.

    Raises:
        TypeError: a setting that there is not.
        ValueError: unknown names or options, numbers out of range, combinations that make no sense.

    Source: Bai, Kolter and Koltun, Deep Equilibrium Models, arXiv 1909.01377, theorem 1.
    """

    def __init__(
        self,
        *,
        batch_sum: BatchSum | None = None,
        evaluation: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.settings = Settings().changed(**settings)
        self.batch_sum = batch_sum
        self.evaluation = evaluation or {}

    def __getattr__(self, name: str) -> Any:
        if name == "b_solver":
            return self.settings.backward_solver
        return getattr(self.settings, name) if name in NAMES else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (*NAMES, "f_options", "b_options"):
            name, value = "settings", self.settings.changed(**{name: value})
        elif name == "settings" and not isinstance(value, Settings):
            raise ValueError(f"`settings` is a {type(value).__name__}: set settings one by one, by their names")
        elif name == "batch_sum" and not (value is None or callable(value)):
            raise ValueError(f"`batch_sum` is a {type(value).__name__}: pass a function, or None")
        elif name == "evaluation":
            value = dict(value)
            self.settings.changed(**value)  # mistakes are told here, and not at the first evaluation
        elif type(self) is DEQModule and (meant := meant_setting(name)) is not None:
            raise AttributeError(f"there is no setting {name!r}: {meant}")
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """The settings."""
        shown = {name: getattr(self.settings, name) for name in NAMES}
        if self.evaluation:
            shown["evaluation"] = self.evaluation
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def forward(
        self,
        f: Map,
        z0: State,
        *,
        jacobian_samples: int = 0,
        iterates: int | Sequence[int] = (),
        callback: Callback | None = None,
        sequence_traces: bool = False,
        **changes: Any,
    ) -> tuple[State, SolveInfo]:
        """Solves z = f(z) from z0.

        Args:
            f: the map, (B, *) -> (B, *) in the same shape, dtype and device, or a map of tuples or lists of such
                tensors (`unpacked` makes one of a function of several tensors); free of side effects: it is called
                many times, and with gradients enabled PyTorch lets it not write into its argument. Everything it
                closes over may require gradients. Under autocast its values are cast to the state's dtype. With the
                scope "sequence", a method `select(rows)` that gives the same map for some sequences saves work. A
                method `pack(z)` is used in the forward solve, `adjoint(z)` in a long backward one, see `prepare`.
            z0: the start, a tensor, or a tuple or list of them; no gradient flows into it. Under autocast the state has
                at least single precision, whatever the start has. A start whose channels come last in memory
                (`torch.channels_last`) is seen by f, and comes back, in that form.
            jacobian_samples: number of vectors for `SolveInfo.jacobian_loss`; without gradients there is none. The
                modes phantom, unroll and reversible apply f once more for it.
            iterates: indices of iterates that come back in `SolveInfo.iterates`; or a number n, for the n - 1 that
                divide the threshold evenly, so that with the result there are n states, or as many as steps. With
                gradients enabled each is f of the iterate, with the gradient of that application (phantom: K of them;
                unroll, reversible: the iterate itself, with that of its own past). Where the solve ended before, the
                result stands in the place. `modules.trajectory` weights their losses.
            callback: is told after every evaluation of the forward solve: the iterate's index, the iterates, which it
                must leave as they are, and the batch's residual in the stop mode.
            sequence_traces: whether the reports have each sequence's residuals of every iterate.
            changes: settings, `f_options` and `b_options` for this call alone.

        Returns:
            ẑ = f(z*) with gradients enabled, z* without; and the reports of the solves. The backward report appears in
            it when `backward` has run.

        Raises:
            ValueError: z0 is no state, f changes the shape or dtype of its argument, or a setting is out of range.
            RuntimeError: inside transforms of `torch.func` and under forward-mode differentiation; on backward, when
                second derivatives of the implicit gradient are asked for.
        """
        run = _outside_of_graphs if torch.compiler.is_compiling() else _run
        return run(
            self,
            f,
            z0,
            changes,
            iterates=iterates,
            jacobian_samples=jacobian_samples,
            callback=callback,
            sequence_traces=sequence_traces,
        )

    def _settings(self, changes: Mapping[str, Any]) -> Settings:
        """The settings of one call."""
        settings = self.settings if self.training or not self.evaluation else self.settings.changed(**self.evaluation)
        return settings.changed(**changes) if changes else settings


def _run(
    deq: DEQModule,
    f: Map,
    z0: State,
    changes: Mapping[str, Any],
    *,
    iterates: int | Sequence[int],
    jacobian_samples: int,
    callback: Callback | None,
    sequence_traces: bool,
) -> tuple[State, SolveInfo]:
    """`DEQModule.forward`."""
    settings, layout = deq._settings(changes), StateLayout.of(z0)
    COUNT.check("jacobian_samples", jacobian_samples)
    check_no_transform()
    draws = deq.training and settings.f_thres_delta > 0
    threshold = _drawn(settings) if draws else settings.f_thres
    if not layout.is_flat:
        f, z0, callback = layout.flattened(f), layout.flatten(z0), callback and _told_of(callback, layout)
    z0 = z0.detach()
    if torch.is_autocast_enabled(z0.device.type):
        z0 = z0.to(accumulation_dtype(z0))  # f alone runs in low precision, and has no lower one
        settings = settings.changed(amp="off")
        f = CastMap(f, z0.dtype)
    this = Pass(
        settings,
        threshold,
        batch_sum=None if draws else deq.batch_sum,
        jacobian_samples=jacobian_samples,
        iterates=_indices(iterates, threshold),
        callback=callback,
        sequence_traces=sequence_traces,
    )
    z, info = this.run(f, z0)
    if layout.is_flat:
        return z, info
    info.iterates = tuple(layout.apart(iterate) for iterate in info.iterates)
    return layout.apart(z), info


# A compiler would take the solver's loop apart into a graph a step. `torch.compiler.disable` says the same, but imports
# the compiler at once.
_outside_of_graphs = _disable_dynamo(_run)


def _drawn(settings: Settings) -> int:
    """The forward threshold of one solve."""
    delta = settings.f_thres_delta
    return max(settings.f_thres + int(torch.randint(-delta, delta + 1, (), device="cpu")), 0)


def _indices(iterates: int | Sequence[int], threshold: int) -> tuple[int, ...]:
    """The indices that are asked for."""
    if not isinstance(iterates, Sequence):
        AT_LEAST_ONE.check("iterates", iterates)
        n = min(iterates, max(threshold, 1))
        return tuple(threshold - left * (threshold // n) for left in range(n - 1, 0, -1))
    for index in iterates:
        COUNT.check("iterates", index)
    return tuple(iterates)


def _told_of(callback: Callback, layout: StateLayout) -> Callback:
    """The callback of a solve over flat states."""
    return lambda index, z, residual: callback(index, layout.unflatten(z), residual)
