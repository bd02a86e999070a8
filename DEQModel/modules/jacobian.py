"""The Jacobian ∂f/∂z at an equilibrium: a penalty on its size, and its spectral radius."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.solvers import FixedPointFn
from modules.tracker import accumulation_dtype


def jacobian_loss(f_z: Tensor, z: Tensor, *, samples: int = 1) -> Tensor:
    """Hutchinson's estimate of ‖∂f/∂z‖²_F / numel(z): the mean of ‖vᵀ ∂f/∂z‖² / numel over v ~ N(0, I).

    Args:
        f_z: f(z) (B, *), with its graph.
        z: the state (B, *), which requires grad.
        samples: number of vectors v.

    Returns:
        A scalar with gradients to the parameters of f.

    Source: Bai, Koltun and Kolter, arXiv 2106.14342, equation 5.
    """
    total = f_z.new_zeros(())
    for _ in range(samples):
        v = torch.randn_like(f_z)
        (product,) = torch.autograd.grad(f_z, z, v, create_graph=True)
        total = total + product.square().sum() / z.numel()
    return total / samples


def spectral_radius(f: FixedPointFn, z: Tensor, *, iterations: int = 30) -> Tensor:
    """The largest |eigenvalue| of each sequence's ∂f/∂z at z, (B,), by Arnoldi's method on its transpose.

    A Krylov space is right for a dominant complex pair too, where the power iteration turns without settling. Exact
    once `iterations` reaches the number N of a sequence's entries. Needs f to treat sequences apart from each other.

    Args:
        f: the map, (B, *) -> (B, *).
        z: where to differentiate (B, *).
        iterations: dimension of the Krylov space; memory is as many states.

    Source: W. E. Arnoldi, Quart. Appl. Math. 9 (1951).
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        f_z = f(z)
    n_batch, n_state = z.flatten(1).shape
    m = min(iterations, n_state)
    dtype = accumulation_dtype(z)
    generator = torch.Generator(z.device).manual_seed(0)  # the estimate draws nothing from the caller's numbers
    q = torch.randn(n_batch, n_state, generator=generator, device=z.device, dtype=dtype)
    q = q / q.norm(dim=1, keepdim=True)
    basis = q.new_zeros(n_batch, m, n_state)
    hessenberg = q.new_zeros(n_batch, m, m)
    for k in range(m):
        basis[:, k] = q
        (product,) = torch.autograd.grad(f_z, z, q.view_as(z).to(z.dtype), retain_graph=True)
        w = product.flatten(1).to(dtype)
        for _ in range(2):  # once is not enough to keep the basis orthogonal
            projection = torch.bmm(basis[:, : k + 1], w.unsqueeze(2)).squeeze(2)
            w = w - torch.bmm(projection.unsqueeze(1), basis[:, : k + 1]).squeeze(1)
            hessenberg[:, : k + 1, k] += projection
        norm = w.norm(dim=1)
        settled = norm <= torch.finfo(dtype).eps * hessenberg[:, : k + 1, k].norm(dim=1)
        if k + 1 < m:
            hessenberg[:, k + 1, k] = torch.where(settled, 0, norm)
        q = torch.where(settled[:, None], 0, w / norm[:, None])
    return torch.linalg.eigvals(hessenberg).abs().amax(dim=1).to(z.dtype)
