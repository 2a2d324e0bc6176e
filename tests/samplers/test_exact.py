import pytest
import torch

from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise
from posterior.operators import GaussianBlur, RandomInpainting, SuperResolution
from posterior.samplers import ExactGaussian

SHAPE = (3, 8, 8)
FAMILIES = [RandomInpainting(), SuperResolution(4), GaussianBlur(7, 1.0)]


def dense_posterior(prior, measurement):
    """Mean and covariance of row 0, by matrices."""
    eye = torch.eye(192, dtype=torch.float64).view(192, *SHAPE)
    one = measurement.rows(torch.zeros(192, dtype=torch.long)).operator
    matrix = one.forward(eye).flatten(1).T
    precision = torch.linalg.inv(prior.filter(eye, prior.spectrum(SHAPE)).flatten(1))
    precision = precision + matrix.T @ matrix / measurement.likelihood.sigma_y**2
    mean = prior.mean.repeat_interleave(64)
    shift = matrix.T @ (measurement.y[0].flatten() - matrix @ mean) / measurement.likelihood.sigma_y**2
    covariance = torch.linalg.inv(precision)
    return mean + covariance @ shift, covariance


@pytest.fixture(params=FAMILIES, ids=lambda family: type(family).__name__)
def problem(request, field):
    prior = field.double()
    generator = torch.Generator().manual_seed(0)
    truth = prior.sample_from(torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator))
    operator = request.param.realise(SHAPE, [stream(0, i, -1, "operator") for i in "ab"]).to(torch.float64)
    noise = torch.randn(2, *operator.measurement_shape, dtype=torch.float64, generator=generator)
    return prior, Measurement.simulate(truth, operator, GaussianNoise(0.1), noise)


def test_mean_is_the_conditional_mean(problem):
    prior, measurement = problem
    mean, _ = dense_posterior(prior, measurement)
    found = ExactGaussian(tolerance=1e-12).mean(prior, measurement)[0]
    torch.testing.assert_close(found.flatten(), mean, rtol=1e-8, atol=1e-8)


def test_samples_have_the_conditional_moments(problem):
    prior, measurement = problem
    mean, covariance = dense_posterior(prior, measurement)
    count = 4000
    samples = ExactGaussian(tolerance=1e-8)(prior, measurement.repeat(count), Streams(0, ["a", "b"], count))
    rows = samples.reshape(count, 2, 192)[:, 0]
    variance = covariance.diagonal()
    assert ((rows.mean(dim=0) - mean) / (variance / count).sqrt()).abs().max() < 5
    error = torch.cov(rows.T) - covariance
    scale = (variance[:, None] * variance + covariance**2).sqrt() / count**0.5
    assert (error / scale).abs().max() < 5.5  # 18,000 entries


def test_a_row_alone_equals_the_row_in_a_batch(problem):
    """Up to the tolerance of the solve: rounding may move the step at which a row stops."""
    prior, measurement = problem
    sampler = ExactGaussian(tolerance=1e-10)
    together = sampler(prior, measurement, Streams(0, ["a", "b"]))
    alone = sampler(prior, measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-8)


def test_no_convergence_is_an_error(problem):
    prior, measurement = problem
    rng = Streams(0, ["a", "b"])
    with pytest.raises(UserError, match="no convergence to 1e-30 in 20 steps"):
        ExactGaussian(tolerance=1e-30, max_steps=20)(prior, measurement, rng)
    ExactGaussian(tolerance=0.5, max_steps=9)(prior, measurement, rng)


def test_nan_in_a_measurement_stays_visible_and_in_its_row(problem):
    prior, measurement = problem
    measurement.y[1, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        ExactGaussian().mean(prior, measurement)
    samples = ExactGaussian()(prior, measurement, Streams(0, ["a", "b"]))
    assert torch.isfinite(samples[0]).all()
    assert not torch.isfinite(samples[1]).all()


def test_another_prior_is_refused(problem):
    class Other(type(problem[0]).__base__):
        def _score(self, x, sigma):
            return -x

    with pytest.raises(UserError, match="only from a GaussianFieldPrior, got Other"):
        ExactGaussian()(Other(), problem[1], Streams(0, ["a", "b"]))
