"""`DEQModule`: the equilibrium of a map as a layer, with its gradient from the implicit function theorem."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from modules.solvers import SOLVERS, FixedPointFn
from modules.tracker import STOP_MODES, SolveReport


@dataclass
class SolveInfo:
    """Reports of an equilibrium's two solves; `backward` is None until a gradient has been asked for."""

    forward: SolveReport
    backward: SolveReport | None = None


class DEQModule(nn.Module):
    """Finds z* = f(z*) and differentiates through it without storing the solver's steps.

    Forward: z* comes from the solver without gradients. Where gradients are enabled, f is applied once more and
    ẑ = f(z*) is returned, so that its graph reaches f's parameters and inputs; where they are not, z* itself is.

    Backward: with ȳ the gradient that arrives at the output, the implicit function theorem asks for
    ȳᵀ (I - ∂f/∂z*)⁻¹ ∂f/∂θ. A hook replaces ȳ by the solution y of

        y = (∂f/∂z*)ᵀ y + ȳ,

    found by the backward solver from 0, before it flows through ẑ's graph. That solve always stops on the relative
    residual: an absolute one would let the gradient's accuracy depend on the scale of the loss. With `b_thres` 0 there
    is no solve and y = ȳ, the gradient of a single application.

    The module holds settings alone: parameters belong to f, and nothing is kept between calls. Forward, evaluation and
    gradients are gated on `torch.is_grad_enabled()`, not on training mode.

    Args:
        solver: name of the forward and backward solver, a key of `SOLVERS`.
        f_thres, b_thres: largest number of steps, forward and backward.
        f_eps, b_eps: residuals at which the solves have converged.
        stop_mode: residual of the forward solve, "rel" or "abs".

    Raises:
        ValueError: an unknown solver or stop mode, a negative threshold or eps.

    Source: Bai, Kolter and Koltun, Deep Equilibrium Models, arXiv 1909.01377, theorem 1.
    """

    def __init__(
        self,
        *,
        solver: str = "broyden",
        f_thres: int = 50,
        b_thres: int = 80,
        f_eps: float = 1e-3,
        b_eps: float = 1e-3,
        stop_mode: str = "rel",
    ):
        super().__init__()
        if solver not in SOLVERS:
            raise ValueError(f"solver is {solver!r}: choose one of {', '.join(SOLVERS)}")
        if stop_mode not in STOP_MODES:
            raise ValueError(f"stop_mode is {stop_mode!r}: choose one of {', '.join(STOP_MODES)}")
        limits = {"f_thres": f_thres, "b_thres": b_thres, "f_eps": f_eps, "b_eps": b_eps}
        for name, number in limits.items():
            if not number >= 0:
                raise ValueError(f"{name} is {number}: pass 0 or more")
        self.solver, self.stop_mode = solver, stop_mode
        self.f_thres, self.b_thres = f_thres, b_thres
        self.f_eps, self.b_eps = f_eps, b_eps

    def extra_repr(self) -> str:
        return (
            f"solver={self.solver!r}, f_thres={self.f_thres}, b_thres={self.b_thres}, "
            f"f_eps={self.f_eps}, b_eps={self.b_eps}, stop_mode={self.stop_mode!r}"
        )

    def forward(self, f: FixedPointFn, z0: Tensor) -> tuple[Tensor, SolveInfo]:
        """Solves z = f(z) from z0.

        Args:
            f: the map, (B, *) -> (B, *) in the same shape, dtype and device, free of side effects: it is called many
                times. Everything it closes over may require gradients.
            z0: the start (B, *); no gradient flows into it.

        Returns:
            ẑ = f(z*) (B, *) with gradients enabled, z* without; and the reports of the solves. The backward report
            appears in it when `backward` has run.

        Raises:
            ValueError: f changes the shape or dtype of its argument.
            RuntimeError: on backward, when second derivatives are asked for (create_graph=True).
        """
        with torch.no_grad():
            result = SOLVERS[self.solver](
                _same_kind(f), z0.detach(), threshold=self.f_thres, eps=self.f_eps, stop_mode=self.stop_mode
            )
        info = SolveInfo(result.report)
        if not torch.is_grad_enabled():
            return result.value, info
        z_star = result.value.detach().requires_grad_()
        f_star = f(z_star)
        return self._implicit(f_star, z_star, info), info

    def _implicit(self, f_star: Tensor, z_star: Tensor, info: SolveInfo) -> Tensor:
        """A copy of f_star = f(z_star) whose incoming gradient ȳ becomes y = (∂f/∂z)ᵀ y + ȳ.

        The hook sits on the copy, so that the products with (∂f/∂z)ᵀ, which start at f_star, never meet it: it need
        not be removed, any number of backward passes gives the same gradient, and it dies with the graph. A view would
        not do: changing it in place would move the hook's place in the graph.
        """
        if not f_star.requires_grad:
            return f_star
        f_edge = get_gradient_edge(f_star)
        solver, threshold, eps = SOLVERS[self.solver], self.b_thres, self.b_eps

        def solve_backward(grad: Tensor | None) -> Tensor | None:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    "the implicit gradient has no second derivative here: call backward without create_graph=True"
                )
            if grad is None or threshold == 0:
                return grad

            def transposed(y: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(f_edge, z_star, y, retain_graph=True, allow_unused=True)
                return grad if product is None else product + grad

            result = solver(transposed, torch.zeros_like(grad), threshold=threshold, eps=eps, stop_mode="rel")
            info.backward = result.report
            return result.value

        output = f_star.clone()
        output.register_hook(solve_backward)
        return output


def _same_kind(f: FixedPointFn) -> FixedPointFn:
    """f, checked to keep shape and dtype."""

    def checked(z: Tensor) -> Tensor:
        fz = f(z)
        if fz.shape != z.shape or fz.dtype != z.dtype:
            raise ValueError(
                f"f maps {tuple(z.shape)} {z.dtype} to {tuple(fz.shape)} {fz.dtype}: both must be the same"
            )
        return fz

    return checked
