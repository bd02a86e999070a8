"""The Jacobian ∂f/∂z at an equilibrium: a penalty on its size, and its spectral radius."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import AT_LEAST_ONE
from .state import Map, State, StateLayout
from .tracker import accumulation_dtype, by_row


def _transposed_product(f_z: Tensor, z: Tensor, v: Tensor, *, create_graph: bool) -> Tensor:
    """(∂f/∂z)ᵀ v, zero where f does not depend on z."""
    if not f_z.requires_grad:
        return torch.zeros_like(z)
    (product,) = torch.autograd.grad(
        f_z, z, v, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return product


def jacobian_loss(f_z: Tensor, z: Tensor, *, samples: int = 1) -> Tensor:
    """Hutchinson's estimate of ‖∂f/∂z‖²_F / numel(z): the mean of ‖vᵀ ∂f/∂z‖² / numel over v ~ N(0, I).

    Args:
        f_z: f(z) (B, *), with its graph.
        z: the state (B, *), which requires grad.
        samples: number of vectors v.

    Returns:
        A scalar, at least in single precision, with gradients to the parameters of f.

    Raises:
        ValueError: no samples.

    Source: Bai, Koltun and Kolter, arXiv 2106.14342, equation 5.
    """
    AT_LEAST_ONE.check("samples", samples)
    total = torch.zeros((), dtype=accumulation_dtype(z), device=z.device)
    for _ in range(samples):
        product = _transposed_product(f_z, z, torch.randn_like(f_z), create_graph=True)
        total = total + product.to(total.dtype).square().sum()
    return total / (samples * z.numel())


def spectral_radius(f: Map, z: State, *, iterations: int = 30) -> Tensor:
    """The largest |eigenvalue| of each sequence's ∂f/∂z at z, (B,), by Arnoldi's method on its transpose.

    A Krylov space is right for a dominant complex pair too, where the power iteration turns without settling. Exact
    once `iterations` reaches the number N of a sequence's entries. Needs f to treat sequences apart from each other;
    every sequence starts from the same direction, so that its estimate does not depend on its place in the batch.

    Args:
        f: the map, (B, *) -> (B, *).
        z: where to differentiate, (B, *) or several such tensors.
        iterations: dimension of the Krylov space; memory is as many states.

    Returns:
        One number per sequence, NaN where the Jacobian is not finite.

    Raises:
        ValueError: no iterations.

    Source: W. E. Arnoldi, Quart. Appl. Math. 9 (1951).
    """
    AT_LEAST_ONE.check("iterations", iterations)
    layout = StateLayout.of(z, name="z")
    if layout.kind is not None:
        f, z = layout.flattened(f), layout.flatten(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        f_z = f(z)
    n_batch, n_state = by_row(z).shape
    m = min(iterations, n_state)
    dtype = accumulation_dtype(z)
    generator = torch.Generator(z.device).manual_seed(0)  # the estimate draws nothing from the caller's numbers
    q = torch.randn(n_state, generator=generator, device=z.device, dtype=dtype)
    q = (q / q.norm()).expand(n_batch, n_state)
    basis = q.new_zeros(n_batch, m, n_state)
    hessenberg = q.new_zeros(n_batch, m, m)
    for k in range(m):
        basis[:, k] = q
        w = by_row(_transposed_product(f_z, z, q.reshape(z.shape).to(f_z.dtype), create_graph=False)).to(dtype)
        for _ in range(2):  # once is not enough to keep the basis orthogonal
            projection = torch.bmm(basis[:, : k + 1], w.unsqueeze(2)).squeeze(2)
            w = w - torch.bmm(projection.unsqueeze(1), basis[:, : k + 1]).squeeze(1)
            hessenberg[:, : k + 1, k] += projection
        norm = w.norm(dim=1)
        settled = norm <= 10 * torch.finfo(dtype).eps * hessenberg[:, : k + 1, k].norm(dim=1)  # no more than rounding
        if k + 1 < m:
            hessenberg[:, k + 1, k] = torch.where(settled, 0, norm)
        q = torch.where(settled[:, None], 0, w / norm[:, None])
    finite = hessenberg.isfinite().flatten(1).all(dim=1)
    radius = torch.linalg.eigvals(torch.where(finite[:, None, None], hessenberg, 0)).abs().amax(dim=1)
    return torch.where(finite, radius, torch.nan)
