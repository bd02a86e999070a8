"""A map whose equilibrium and gradients are known without the code under test, in float64."""

import torch

from modules.deq import DEQModule

B, N = 3, 5
TIGHT = {"f_eps": 1e-13, "b_eps": 1e-13, "f_thres": 80, "b_thres": 80}
MODES = {
    "implicit": {},
    "one_step": {},
    "phantom": {"phantom_steps": 4, "phantom_damping": 0.6},
    "unroll": {"f_thres": 9},
    "reversible": {"f_thres": 9, "f_eps": 0, "rev_beta": 0.7},
}
BETA = MODES["reversible"]["rev_beta"]


def tensor(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cell(z, weight, x):
    return torch.tanh(z @ weight + x)


def make(mode, **options):
    return DEQModule(grad=mode, **(TIGHT | MODES[mode] | options))


def solve(deq, weight, x):
    return deq(lambda z: cell(z, weight, x), torch.zeros_like(x))


def equilibrium_of(weight, x):
    z = torch.zeros_like(x)
    for _ in range(300):
        z = cell(z, weight, x)
    return z.detach()


def dense_jacobian(weight, x, z):
    """∂f/∂z of each sequence, (B, N, N)."""
    slope = 1 - cell(z, weight, x).square()
    return slope.unsqueeze(2) * weight.t()


def oracle(mode, weight, x, grad):
    """Gradients of ⟨grad, output⟩ for weight and x, without any of the code under test."""
    if mode == "unroll":
        z = torch.zeros_like(x)
        for _ in range(MODES["unroll"]["f_thres"]):
            z = cell(z, weight, x)
        return torch.autograd.grad(z, (weight, x), grad)
    if mode == "reversible":
        y = z = torch.zeros_like(x)
        for _ in range(MODES["reversible"]["f_thres"]):
            y = (1 - BETA) * y + BETA * cell(z, weight, x)
            z = (1 - BETA) * z + BETA * cell(y, weight, x)
        return torch.autograd.grad(z, (weight, x), grad)
    z = equilibrium_of(weight, x)
    jacobian = dense_jacobian(weight.detach(), x.detach(), z)
    identity = torch.eye(N, dtype=torch.float64).expand(B, N, N)
    if mode == "implicit":
        factor = torch.linalg.inv(identity - jacobian)
    elif mode == "one_step":
        factor = identity
    else:
        damping, steps = MODES["phantom"]["phantom_damping"], MODES["phantom"]["phantom_steps"]
        base = (1 - damping) * identity + damping * jacobian
        factor = damping * sum(torch.linalg.matrix_power(base, k) for k in range(steps))
    y = torch.einsum("bij,bi->bj", factor, grad)
    return torch.autograd.grad(cell(z, weight, x), (weight, x), y)
