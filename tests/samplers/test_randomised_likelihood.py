"""Minima for random data: exact posteriors where A is linear, data that are met where it is not, and refusals."""

from dataclasses import dataclass, replace

import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import GaussianBlur, NavierStokes, Operator, SuperResolution
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior
from posterior.samplers import RandomisedMaximumLikelihood, Sampler, unobserved

SHAPE = (1, 4, 4)


def smooth_field(floor=0.1):
    return GaussianFieldPrior([0.2], [[1.0]], [2e-3], [3.0], [0.1], floor)


def two_gaussians():
    directions, _ = torch.linalg.qr(torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0)))
    means = torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, 0.5)])
    return GaussianMixturePrior(torch.tensor([0.5, 0.5]), means, directions, torch.ones(2, 3), torch.full((2,), 0.1))


def one_gaussian():
    both = two_gaussians()
    parts = (getattr(both, name)[1:] for name in ("means", "directions", "variances", "rest"))
    return GaussianMixturePrior(torch.ones(1), *parts)


@dataclass(frozen=True)
class FilledWithTruth(Sampler):
    """A start that could not be better."""

    truth: torch.Tensor | None = None

    def __call__(self, prior, measurement, rng, observe=unobserved):
        return self.truth


def covariance_of(prior):
    eye = torch.eye(16, dtype=torch.float64)
    if isinstance(prior, GaussianMixturePrior):
        return prior.covariances[0].double(), prior.means[0].flatten().double()
    rows = prior.filter(eye.view(16, *SHAPE), prior.spectrum(SHAPE).double()).flatten(1)
    return rows, prior.mean.double().expand(16)


@pytest.mark.parametrize("make", [smooth_field, one_gaussian])
def test_linear_problems_have_the_moments_of_the_posterior(make):
    prior, operator, count = make(), GaussianBlur(3, 0.8).realise(SHAPE), 3000
    y = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    measurement = Measurement(y, operator, GaussianNoise(0.2))
    samples = RandomisedMaximumLikelihood(4, 16)(prior, measurement.repeat(count), Streams(0, ["a"], count))
    matrix = operator.to(torch.float64).forward(torch.eye(16, dtype=torch.float64).view(16, *SHAPE)).flatten(1).T
    covariance, mean = covariance_of(prior)
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + 0.04 * torch.eye(16).double())
    expected = mean + gain @ (y.double().flatten() - matrix @ mean)
    left = covariance - gain @ matrix @ covariance
    rows = samples.flatten(1).double()
    assert ((rows.mean(dim=0) - expected) / (left.diagonal() / count).sqrt()).abs().max() < 4.5
    scale = (left.diagonal()[:, None] * left.diagonal() + left**2).sqrt() / count**0.5
    assert ((torch.cov(rows.T) - left) / scale).abs().max() < 5


@pytest.mark.parametrize("start", [None, FilledWithTruth()], ids=["cold", "warm"])
def test_a_flow_meets_its_data_and_is_nearer_to_the_truth_than_the_prior(start):
    prior = GaussianFieldPrior([0.0], [[1.0]], [1e-3], [4.0], [0.1], 0.01)
    ids, shape = ["a", "b"], (1, 8, 8)
    operator = NavierStokes(time=0.5, steps=8, stride=1).realise(shape)
    truth = prior.sample_from(Streams(1, ids).randn("truth", shape))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.05), Streams(2, ids).randn("noise", shape))
    sampler = RandomisedMaximumLikelihood(5 if start is None else 1, 8, start and replace(start, truth=truth))
    x = sampler(prior, measurement, Streams(0, ids))
    assert measurement.relative_residual(torch.zeros_like(truth)).min() > 2
    # of y's noise and of the sample's own, 64 numbers each: 1 +- 0.09 where the prior is vague
    assert ((measurement.relative_residual(x) - 1).abs() < 0.35).all()
    assert ((x - truth).square().mean(dim=(1, 2, 3)) < 0.2 * truth.square().mean(dim=(1, 2, 3))).all()


class Logarithm(Operator):
    """log x, which is NaN below 0."""

    @property
    def measurement_shape(self):
        return self.image_shape

    def forward(self, x):
        return x.log()


def test_a_trial_that_is_not_finite_is_not_taken():
    """Newton's step from 1 towards log x = -3 ends at -2."""
    prior = GaussianFieldPrior([1.0], [[1.0]], [1e-12], [1.0], [1.0], 1.0)  # white
    measurement = Measurement(torch.full((2, *SHAPE), -3.0), Logarithm(SHAPE), GaussianNoise(0.01))
    x = RandomisedMaximumLikelihood(30, 3)(prior, measurement, Streams(0, ["a", "b"]))
    torch.testing.assert_close(x.log(), torch.full_like(x, -3.0), rtol=0, atol=0.05)


def test_nan_in_a_measurement_stays_in_its_row():
    measurement = Measurement(torch.zeros(2, *SHAPE), GaussianBlur(3, 0.8).realise(SHAPE), GaussianNoise(0.2))
    measurement.y[1, 0, 0, 0] = float("nan")
    x = RandomisedMaximumLikelihood(3, 3)(smooth_field(), measurement, Streams(0, ["a", "b"]))
    assert torch.isfinite(x[0]).all()
    assert x[1].isnan().all()


@pytest.mark.parametrize(
    ("make", "likelihood", "told"),
    [
        (two_gaussians, GaussianNoise(0.1), "needs a Gaussian prior, .* got GaussianMixturePrior"),
        (smooth_field, PoissonNoise(), "needs Gaussian noise, got PoissonNoise"),
    ],
)
def test_what_it_is_not_for_is_one_line(make, likelihood, told):
    operator = SuperResolution(2).realise(SHAPE)
    measurement = Measurement(torch.zeros(1, *operator.measurement_shape), operator, likelihood)
    with pytest.raises(UserError, match=f"^RandomisedMaximumLikelihood {told}[^\n]*$"):
        RandomisedMaximumLikelihood()(make(), measurement, Streams(0, ["a"]))


@pytest.mark.parametrize("name", ["num_steps", "inner_steps"])
def test_no_steps_are_refused(name):
    with pytest.raises(UserError, match=f"RandomisedMaximumLikelihood: {name}"):
        RandomisedMaximumLikelihood(**{name: 0})
