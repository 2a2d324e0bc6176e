import pytest
import torch

from posterior import UserError
from posterior.priors import GaussianFieldPrior


def dense_covariance(prior, shape):
    """C as a matrix, column by column."""
    size = shape[0] * shape[1] * shape[2]
    return prior.filter(torch.eye(size, dtype=prior.mean.dtype).view(size, *shape), prior.spectrum(shape)).flatten(1)


@pytest.fixture
def exact(field):
    return field.double()


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 5, 7)])
def test_denoiser_is_the_conditional_mean(exact, shape):
    covariance, sigma = dense_covariance(exact, shape), 0.4
    torch.testing.assert_close(covariance, covariance.T)
    x = torch.randn(2, *shape, dtype=torch.float64)
    mean = exact.mean[:, None, None]
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(covariance)))
    expected = mean + ((x - mean).flatten(1) @ gain.T).view_as(x)
    torch.testing.assert_close(exact.denoise(x, sigma), expected)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_score_is_the_gradient_of_the_log_density(exact, sigma):
    shape = (3, 5, 6)
    covariance = dense_covariance(exact, shape) + sigma**2 * torch.eye(90)
    x = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    density = torch.distributions.MultivariateNormal(exact.mean.repeat_interleave(30), covariance)
    (grad,) = torch.autograd.grad(density.log_prob(x.flatten()), x)
    torch.testing.assert_close(exact.score(x.detach(), sigma), grad)


def test_samples_have_the_covariance(exact):
    shape, count = (3, 4, 4), 40_000
    noise = torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = exact.sample_from(noise).flatten(1)
    covariance = dense_covariance(exact, shape)
    error = torch.cov(samples.T) - covariance
    scale = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / count**0.5
    assert (error / scale).abs().max() < 5
    assert (samples.mean(dim=0) - exact.mean.repeat_interleave(16)).abs().max() < 5 * (covariance.max() / count) ** 0.5


def test_fit_recovers_the_spectrum(field):
    images = field.sample_from(torch.randn(400, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    fitted = GaussianFieldPrior.fit(images, floor=0.2)
    shape = (3, 32, 32)
    # as covariances, which know nothing of the order or the signs of the components
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (prior.filter(x, prior.spectrum(shape)) for prior in (fitted, field))
    assert (ours - theirs).norm() / theirs.norm() < 0.1
    torch.testing.assert_close(fitted.mean, field.mean, atol=0.05, rtol=0)


def test_settings_make_the_prior_again(field):
    again = GaussianFieldPrior(**field.settings())
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(again.score(x, 0.1), field.score(x, 0.1))


def test_moving_to_double_moves_the_spectrum(field):
    field.spectrum((3, 8, 8))
    assert field.double().spectrum((3, 8, 8)).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor": 0.0}, "floor must be > 0"),
        ({"cutoff": [0.1, 0.0, 0.1]}, "cutoff"),
        ({"exponent": [1.0, 1.0]}, "number of components"),
        ({"components": [[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0]]}, "orthonormal"),
        ({"components": [[1.0, 0, 0], [0, 1.0], [0, 0, 1.0]]}, "number of components"),
        ({"amplitude": [float("nan"), 1.0, 1.0]}, "amplitude"),
    ],
)
def test_bad_parameters_are_refused(field, change, message):
    with pytest.raises(UserError, match=message):
        GaussianFieldPrior(**field.settings() | change)
