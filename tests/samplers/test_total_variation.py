import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import Inpainting, PhaseRetrieval, SuperResolution
from posterior.samplers import TotalVariation
from posterior.samplers.total_variation import gradient, gradient_adjoint


def restored(y, operator, sigma_y, **settings):
    rng = Streams(0, [str(number) for number in range(len(y))])
    return TotalVariation(**settings)(None, Measurement(y, operator, GaussianNoise(sigma_y)), rng)


def test_gradient_and_adjoint():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 7, generator=rng, dtype=torch.float64)
    v = torch.randn(2, 2, 3, 5, 7, generator=rng, dtype=torch.float64)
    torch.testing.assert_close((gradient(x) * v).sum(), (x * gradient_adjoint(v)).sum())
    torch.testing.assert_close(gradient(x)[:, 1, ..., 2], x[..., 3] - x[..., 2])
    assert gradient(x)[:, 1, ..., -1].abs().max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_two_halves_move_towards_each_other(channels):
    """Each half, n pixels wide, moves by weight sigma_y^2 / (n sqrt(C)): at the edge |grad| = sqrt(C) |difference|."""
    y = torch.full((1, channels, 4, 10), -0.5)
    y[..., 5:] = 0.7
    everything = Inpainting(torch.ones(1, 1, 4, 10), (channels, 4, 10))
    found = restored(y, everything, 0.2, weight=10.0, num_steps=3000)
    moved = 10.0 * 0.2**2 / (5 * channels**0.5)
    torch.testing.assert_close(found[..., :5], y[..., :5] + moved, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[..., 5:], y[..., 5:] - moved, rtol=0, atol=1e-4)


def test_it_is_stationary():
    """The least value of the objective is where no step along any direction lowers it."""
    rng = torch.Generator().manual_seed(1)
    operator = SuperResolution(2).realise((3, 8, 8))
    y = torch.randn(1, *operator.measurement_shape, generator=rng)
    x = restored(y, operator, 0.5, weight=0.5, num_steps=5000)

    def objective(x):
        misfit = (operator.forward(x) - y).double().square().sum() / (2 * 0.5**2)
        return misfit + 0.5 * torch.linalg.vector_norm(gradient(x.double()), dim=(1, 2)).sum()

    least = objective(x)
    for _ in range(20):
        step = torch.randn(x.shape, generator=rng) * 0.02
        assert objective(x + step) > least
    assert objective(torch.zeros_like(x)) > least + 1


def test_a_hole_is_filled_from_around_it():
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 3:5, 3:5] = 0
    x = torch.full((1, 1, 8, 8), 0.3)
    torch.testing.assert_close(restored(x * mask, Inpainting(mask, (1, 8, 8)), 0.1), x, rtol=0, atol=1e-3)


def test_what_it_needs():
    operator = PhaseRetrieval().realise((1, 8, 8))
    with pytest.raises(UserError, match="TotalVariation needs a linear operator"):
        restored(torch.zeros(1, *operator.measurement_shape), operator, 0.1)
    with pytest.raises(UserError, match="weight"):
        TotalVariation(weight=0.0)
