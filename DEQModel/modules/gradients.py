"""The implicit gradient: a copy of f(z*) whose incoming gradient is replaced by a solution of the adjoint equation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .leaves import leads_beyond
from .report import SolveReport, SolverResult, Termination
from .state import Map

# (map y ↦ (∂f/∂z)ᵀ y + ȳ, start, low: the same in low precision) -> its fixed point
AdjointSolver = Callable[..., SolverResult]
Graph = tuple[GradientEdge, Tensor]  # where a gradient enters f(z), and z


def attach_implicit(
    f_star: Tensor,
    z_star: Tensor,
    *,
    solve: AdjointSolver | None,
    guess: Callable[[Tensor], Tensor],
    finished: Callable[[SolveReport], None],
    fast_graph: Callable[[], Graph | None] = lambda: None,
    low_graph: Callable[[], Graph | None] = lambda: None,
) -> Tensor:
    """A copy of f_star = f(z_star) whose incoming gradient ȳ becomes the solution y of y = (∂f/∂z)ᵀ y + ȳ.

    The hook sits on the node that made the copy, so that the products with (∂f/∂z)ᵀ, which start at f_star, never
    meet it: it need not be removed, any number of backward passes gives the same gradient, and it dies with the graph.
    On the copy itself it would replace what `torch.autograd.grad(loss, z)` and the user's own hooks on z are given,
    which is ȳ. A view would not do: changing it in place would move the hook's place in the graph.

    Args:
        f_star: f(z_star) (B, *), with its graph.
        z_star: the equilibrium, a leaf that requires grad.
        solve: the backward solver; None takes the guess as it is.
        guess: start of the solve from ȳ.
        finished: is told how the solve went.
        fast_graph: gives f at z_star as another graph, with the same values but for rounding, when a solve begins: one
            that is made for its products. None for that of f_star.
        low_graph: gives f at z_star in low precision, as a graph, when a solve begins; None for full precision alone.

    Where nothing finite was found at all, y is ȳ itself: a NaN that arrives goes on to the parameters, where it can be
    seen, and is not turned into a gradient of zero.
    """
    if not leads_beyond(f_star, z_star):
        return f_star.detach().clone()  # there is nobody to solve for: all that f closes over is frozen
    f_edge = get_gradient_edge(f_star)

    @torch.autocast(f_star.device.type, enabled=False)  # the products take the dtypes of the forward pass
    def solve_backward(grad: Tensor | None) -> Tensor | None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the implicit gradient has no second derivative here: call backward without create_graph=True"
            )
        if grad is None:
            return None
        if solve is None:
            return guess(grad)

        edge, z = fast_graph() or (f_edge, z_star)
        low = low_graph()
        low_map = None if low is None else _adjoint(*low, grad)
        result = solve(_adjoint(edge, z, grad), guess(grad), low=low_map)
        finished(result.report)
        lost = _nothing_finite(result.report)
        if not any(lost):
            return result.value
        return torch.where(torch.tensor(lost, device=grad.device).view(-1, *[1] * (grad.dim() - 1)), grad, result.value)

    output = f_star.clone()
    output.grad_fn.register_prehook(lambda gradients: (solve_backward(gradients[0]),))
    return output


def _adjoint(f_edge: GradientEdge, z: Tensor, grad: Tensor) -> Map:
    """y ↦ (∂f/∂z)ᵀ y + ȳ."""

    def transposed(y: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(f_edge, z, y, retain_graph=True, allow_unused=True)
        return grad if product is None else product + grad

    return transposed


def _nothing_finite(report: SolveReport) -> list[bool]:
    """Which sequences are left with their start because no finite residual came after it."""
    ends = zip(report.sequence_terminations, report.sequence_steps, strict=True)
    return [reason is Termination.NONFINITE and step == 0 for reason, step in ends]
