"""The Jacobian penalty and the spectral radius on maps whose Jacobian is known."""

import math

import pytest
import torch

from modules.deq import DEQModule
from modules.jacobian import jacobian_loss, spectral_radius
from modules.settings import GRADIENTS

N = 5


def linear(matrix):
    """f(z) = A z for every row: ∂f/∂z = A."""
    return lambda z: z @ matrix.t()


def random_matrix(n=N, seed=0):
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / math.sqrt(n)


def test_penalty_is_the_frobenius_norm_in_expectation():
    torch.manual_seed(0)
    matrix, z = random_matrix(), torch.zeros(2, N, dtype=torch.float64, requires_grad=True)
    exact = matrix.square().sum() / N  # two rows, each of numel / 2 entries
    found = torch.stack([jacobian_loss(linear(matrix)(z), z, samples=40) for _ in range(50)])
    error = found.std() / math.sqrt(len(found))
    assert error < 0.02 * exact
    assert (found.mean() - exact).abs() < 4 * error


def test_gradient_of_the_penalty_is_the_closed_form():
    """‖vᵀA‖² / n has the gradient 2 v vᵀ A / n for A."""
    matrix = random_matrix().requires_grad_()
    z = torch.zeros(1, N, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    loss = jacobian_loss(linear(matrix)(z), z, samples=2)
    loss.backward()
    torch.manual_seed(3)
    vs = [torch.randn(1, N, dtype=torch.float64)[0] for _ in range(2)]
    expected = sum(torch.outer(v, v) for v in vs) @ matrix.detach() / N
    torch.testing.assert_close(matrix.grad, expected)
    torch.testing.assert_close(loss.detach(), sum((v @ matrix.detach()).square().sum() for v in vs) / (2 * N))


@pytest.mark.parametrize("grad", GRADIENTS)
def test_every_gradient_mode_gives_the_penalty_at_the_equilibrium(grad):
    weight = random_matrix().mul(0.5).requires_grad_()
    x = torch.randn(2, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    deq = DEQModule(grad=grad, f_thres=60, f_eps=1e-12, b_eps=1e-12, phantom_steps=2)

    def f(z):
        return torch.tanh(z @ weight + x)

    torch.manual_seed(0)
    z, info = deq(f, torch.zeros_like(x), jacobian_samples=3)
    at = z.detach().requires_grad_()
    torch.manual_seed(0)
    expected = jacobian_loss(f(at), at, samples=3)
    torch.testing.assert_close(info.jacobian_loss, expected, rtol=1e-6, atol=1e-9)
    losses = (info.jacobian_loss, expected, z.sum())
    found, expected, of_output = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    (z.sum() + info.jacobian_loss).backward()
    torch.testing.assert_close(weight.grad, of_output + found)
    with torch.no_grad():
        assert deq(f, torch.zeros_like(x), jacobian_samples=3)[1].jacobian_loss is None


def test_penalty_of_a_map_that_ignores_its_argument_is_zero():
    z = torch.zeros(2, 3, requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    assert jacobian_loss(torch.ones(2, 3), z) == 0
    assert jacobian_loss(weight.expand(2, 3), z) == 0


def test_penalty_is_in_single_precision_at_least():
    z = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert jacobian_loss(2 * z, z).dtype == torch.float32


def block(modulus, angle):
    c, s = modulus * math.cos(angle), modulus * math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def jordan(n, value):
    """Defective: one eigenvector for n equal eigenvalues."""
    return value * torch.eye(n, dtype=torch.float64) + torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)


def similar(matrix):
    """The same spectrum in a crooked basis."""
    basis = random_matrix(len(matrix), seed=7) + torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.inv(basis) @ matrix @ basis


SPECTRA = {
    "real": (similar(torch.diag(torch.tensor([0.1, -0.9, 0.5, 0.3], dtype=torch.float64))), 0.9, 1e-9),
    "opposite": (torch.diag(torch.tensor([0.7, -0.7, 0.1], dtype=torch.float64)), 0.7, 1e-9),
    "complex pair": (similar(torch.block_diag(block(1.2, 1.0), block(0.5, 0.3))), 1.2, 1e-9),
    "rotation by a right angle": (block(0.8, math.pi / 2), 0.8, 1e-9),
    "two pairs of equal modulus": (torch.block_diag(block(0.9, 0.4), block(0.9, 2.0)), 0.9, 1e-9),
    "defective": (similar(jordan(3, 0.5)), 0.5, 1e-4),  # rounding grows to its third root
    "nilpotent": (jordan(4, 0.0), 0.0, 2e-3),
    "identity": (0.6 * torch.eye(6, dtype=torch.float64), 0.6, 1e-9),
    "rank one": (torch.ones(6, 6, dtype=torch.float64) / 6, 1.0, 1e-9),
    "zero": (torch.zeros(4, 4, dtype=torch.float64), 0.0, 0.0),
    "one entry": (torch.tensor([[-0.3]], dtype=torch.float64), 0.3, 1e-12),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spectral_radius_of_known_spectra(name, dtype):
    matrix, exact, tolerance = SPECTRA[name]
    if dtype == torch.float32:
        tolerance = {"defective": 0.05, "nilpotent": 0.1, "real": 1e-3, "complex pair": 1e-3}.get(name, 2e-5)
    z = torch.randn(2, len(matrix), dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = spectral_radius(linear(matrix.to(dtype)), z)
    assert found.shape == (2,)
    assert (found - exact).abs().max() <= tolerance


def test_every_sequence_has_its_own_radius_wherever_it_stands():
    matrices = torch.stack([block(0.3, 1.0), block(1.5, 2.0), torch.zeros(2, 2, dtype=torch.float64)])

    def on(matrices):
        return lambda z: torch.einsum("bij,bj->bi", matrices, z)

    found = spectral_radius(on(matrices), torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.3, 1.5, 0.0], dtype=torch.float64))
    other_way_round = spectral_radius(on(matrices.flip(0)), torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(other_way_round.flip(0), found)


def test_fewer_iterations_than_entries_find_a_dominant_pair():
    n = 80
    matrix = torch.diag(torch.linspace(-0.5, 0.5, n, dtype=torch.float64))
    matrix[:2, :2] = block(0.95, 1.1)
    for iterations, tolerance in ((12, 1e-2), (30, 1e-6)):
        found = spectral_radius(linear(matrix), torch.zeros(2, n, dtype=torch.float64), iterations=iterations)
        assert (found - 0.95).abs().max() < tolerance
    full = random_matrix(n, seed=3)
    exact = torch.linalg.eigvals(full).abs().max()
    found = spectral_radius(linear(full), torch.zeros(1, n, dtype=torch.float64), iterations=n)
    torch.testing.assert_close(found[0], exact, rtol=1e-6, atol=0)


def test_spectral_radius_of_a_nonlinear_map_on_a_four_dimensional_state():
    u = torch.randn(2, 2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2, 2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def f(z):
        return torch.sin(z + 0.5 * z.roll(1, 3)) + u

    with torch.no_grad():  # as in evaluation
        found = spectral_radius(f, z)
    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(f, z)[row, :, :, :, row].reshape(6, 6)
        torch.testing.assert_close(found[row], torch.linalg.eigvals(jacobian).abs().max())


def test_a_sequence_without_a_finite_jacobian_says_so_and_spares_the_others():
    rate = torch.tensor([[0.5], [math.nan]], dtype=torch.float64)
    found = spectral_radius(lambda z: rate * z, torch.ones(2, 3, dtype=torch.float64))
    assert found[0] == pytest.approx(0.5)
    assert found[1].isnan()


def test_constant_maps_have_radius_zero():
    assert spectral_radius(lambda z: torch.ones_like(z), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def test_the_estimate_draws_no_random_numbers():
    state = torch.get_rng_state()
    spectral_radius(linear(random_matrix()), torch.zeros(2, N, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)


def test_numbers_that_make_no_sense_raise():
    z = torch.zeros(1, 2, requires_grad=True)
    with pytest.raises(ValueError, match="`samples` is 0"):
        jacobian_loss(2 * z, z, samples=0)
    with pytest.raises(ValueError, match="`iterations` is 0"):
        spectral_radius(lambda z: z, z, iterations=0)


def test_the_radius_of_a_state_of_several_tensors():
    a, b = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    radius = spectral_radius(lambda z: (0.5 * z[0] + z[1], -0.75 * z[1]), (a, b), iterations=4)
    torch.testing.assert_close(radius, torch.full((2,), 0.75, dtype=torch.float64))
