"""Posteriors of given images: against enumeration by hand, against `MixturePosterior`, against forward noising."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from posterior import Measurement, Streams, UserError
from posterior.errors import Diverged
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.one_bit import OneBit
from posterior.operators import (
    GaussianBlur,
    GaussianSensing,
    Operator,
    PhaseRetrieval,
    RandomInpainting,
    Saturation,
    SuperResolution,
)
from posterior.priors import EmpiricalPrior, GaussianMixturePrior, RingPrior
from posterior.random import stream
from posterior.samplers import ExactEmpirical, MixturePosterior, posterior_of
from posterior.samplers.exact_empirical import ConditionedImages, _importance

SHAPE = (1, 4, 4)


def images(count=12, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def measure(prior, family, likelihood, ids="a", shape=SHAPE):
    truth = prior.sample(len(ids), torch.Generator().manual_seed(3))
    operator = family.realise(shape, [stream(0, i, -1, "operator") for i in ids])
    noise = torch.randn(len(ids), *operator.measurement_shape, generator=torch.Generator().manual_seed(4))
    return Measurement.simulate(truth, operator, likelihood, noise)


def drawn():
    return torch.Generator().manual_seed(7)


def amplitudes(x):
    """Of the transform with a quarter of zeros on each side, by numpy."""
    return np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(np.pad(x, 1)), norm="ortho")))


def means(x):
    return x.reshape(2, 2, 2, 2).mean(axis=(1, 3))


def saturated(x):
    return np.minimum(means(x), 0.1)


def counted(y, mean):
    """Log probability of y under photon noise of rate 0.02: 5.1 photons where it is brightest."""
    counts = np.round((y + 1) * 2.55)
    light = 5.1 * np.clip((mean + 1) / 2, 0, 1)
    return np.where(y >= 1, scipy.stats.poisson.logsf(5, light), scipy.stats.poisson.logpmf(counts, light))


SENSING = GaussianSensing(6)
LAWS = {
    # family, likelihood, A by hand, log p(y | A x) by scipy
    "phases": (PhaseRetrieval(), GaussianNoise(0.4), amplitudes, lambda y, a: scipy.stats.norm.logpdf(y, a, 0.4)),
    "saturation": (Saturation(0.1, 2), GaussianNoise(0.3), saturated, lambda y, a: scipy.stats.norm.logpdf(y, a, 0.3)),
    "photons": (SuperResolution(2, "average"), PoissonNoise(0.02), means, counted),
    "signs": (
        SENSING,
        OneBit(0.5),
        lambda x: (SENSING.realise(SHAPE).matrix.double().numpy() @ x.ravel()).reshape(6, 1, 1),
        lambda y, a: scipy.stats.norm.logcdf(y * a / 0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_weights_are_those_of_an_enumeration_for_any_operator_and_noise(name):
    family, likelihood, by_hand, log_density = LAWS[name]
    prior = EmpiricalPrior(images()).reweighted(torch.linspace(0, 1, 12))
    measurement = measure(prior, family, likelihood)
    posterior = posterior_of(prior, measurement, drawn())
    y = measurement.y[0].double().numpy()
    logs = [log_density(y, by_hand(one[0].double().numpy())).sum() for one in images()]
    expected = torch.tensor(logs, dtype=torch.float64).add(torch.linspace(0, 1, 12)).softmax(dim=0)
    torch.testing.assert_close(posterior.weights, expected, rtol=1e-4, atol=1e-9)
    assert 1.05 < float(posterior.num_images) == pytest.approx(1 / float(expected.square().sum()), rel=1e-4)
    assert posterior.num_draws is None


def test_an_image_and_its_half_turn_share_what_amplitudes_leave():
    given = images(6)
    prior = EmpiricalPrior(torch.cat([given, given.rot90(2, (-2, -1))]))
    weights = posterior_of(prior, measure(prior, PhaseRetrieval(), GaussianNoise(0.5)), drawn()).weights
    torch.testing.assert_close(weights[:6], weights[6:], rtol=1e-4, atol=1e-12)
    assert float(weights[:6].sum()) == pytest.approx(0.5, abs=1e-5)


def test_entries_that_are_not_measured_do_not_count():
    prior = EmpiricalPrior(images())
    measurement = measure(prior, RandomInpainting(), GaussianNoise(0.5))
    mask = measurement.operator.restrict(torch.ones_like(measurement.y)).bool()
    misfit = torch.where(mask, (measurement.y - images()) / 0.5, 0).flatten(1).double()
    expected = (-0.5 * misfit.square().sum(dim=1)).softmax(dim=0)
    torch.testing.assert_close(posterior_of(prior, measurement, drawn()).weights, expected, rtol=1e-4, atol=1e-9)


FAMILIES = {
    "inpainting": RandomInpainting(),
    "super-resolution": SuperResolution(2, "average"),
    "blur": GaussianBlur(3, 0.8),
    "sensing": GaussianSensing(5),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_blurred_images_are_a_gaussian_mixture_like_any_other(name):
    """Weights, density, and the mean and covariance of its components' samples are `MixturePosterior`'s."""
    width = 0.3
    prior = EmpiricalPrior(images(5), width)
    covariances = width**2 * torch.eye(16).expand(5, -1, -1)
    mixture = GaussianMixturePrior.full(torch.full((5,), 0.2), images(5), covariances)
    measurement = measure(prior, FAMILIES[name], GaussianNoise(0.2))
    posterior, expected = posterior_of(prior, measurement, drawn()), MixturePosterior(mixture, measurement)
    assert isinstance(posterior, ConditionedImages)
    torch.testing.assert_close(posterior.weights, expected.weights, rtol=1e-5, atol=1e-9)
    x = prior.sample(7, torch.Generator().manual_seed(5))
    torch.testing.assert_close(posterior.log_prob(x), expected.log_prob(x), rtol=1e-5, atol=1e-5)
    units = torch.cat([torch.zeros(1, 16), torch.eye(16)]).view(17, *SHAPE)  # a sample is affine in its noise
    for k in range(5):
        found = posterior.transform(torch.full((17,), k), units).double().flatten(1)
        torch.testing.assert_close(found[0], expected.means[k].flatten(), rtol=1e-5, atol=1e-5)
        root = (found[1:] - found[0]).mT
        torch.testing.assert_close(root @ root.mT, expected.covariance(k), rtol=1e-4, atol=1e-5)


def small(width):
    """Two pixels, the sum seen: x_t has a density that Monte Carlo can reach."""
    shape = (1, 1, 2)
    prior = EmpiricalPrior(images(6, shape), width)
    return prior, measure(prior, GaussianSensing(1), GaussianNoise(0.4), shape=shape)


@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_states_on_their_way_are_posterior_samples_with_noise(width, sigma):
    """log p(x_t | y) against the mean of N(x_t; x, sigma^2 I) over samples x of p(x | y), and samples of x_t."""
    prior, measurement = small(width)
    posterior = posterior_of(prior, measurement, drawn())
    clean = posterior.sample(40_000, torch.Generator().manual_seed(0)).double().flatten(1)
    noisy = posterior.sample(40_000, torch.Generator().manual_seed(1), sigma).double().flatten(1)
    at = noisy[:8]
    kernel = torch.exp(-0.5 * ((at[:, None] - clean) / sigma).square().sum(dim=2)) / (2 * math.pi * sigma**2)
    density = posterior.log_prob(at.view(8, 1, 1, 2), sigma).exp()
    assert ((kernel.mean(dim=1) - density).abs() < 5 * kernel.std(dim=1) / 200).all()
    added = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for one, two in ((noisy, added), (noisy.square(), added.square()), (noisy.prod(1), added.prod(1))):
        spread = (one.var(dim=0) + two.var(dim=0)).sqrt() / 200
        assert ((one.mean(dim=0) - two.mean(dim=0)).abs() < 4.5 * spread).all()


def test_its_denoiser_is_told_y():
    """E[x0 | x_t, y] by Bayes' rule over the images; phases are measured."""
    prior = EmpiricalPrior(images())
    measurement = measure(prior, PhaseRetrieval(), GaussianNoise(0.6))
    posterior = posterior_of(prior, measurement, drawn())
    x, sigma = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)), 0.7
    logs = torch.stack([-0.5 * ((x - one) / sigma).square().sum(dim=(1, 2, 3)) for one in images()], dim=1).double()
    misfit = (measurement.y - measurement.operator.forward(images())).double() / 0.6
    shares = (logs - 0.5 * misfit.square().sum(dim=(1, 2, 3))).softmax(dim=1)
    expected = torch.einsum("bn,nchw->bchw", shares, images().double()).float()
    torch.testing.assert_close(posterior.prior.denoise(x, sigma), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.prior.score(x, sigma), (expected - x) / sigma**2, rtol=1e-4, atol=1e-4)


def test_importance_draws_have_the_exact_moments_and_say_how_many_they_are():
    prior, measurement = small(0.3)
    exact = posterior_of(prior, measurement, drawn())
    told = posterior_of(EmpiricalPrior(prior.images), measurement, drawn()).weights
    draws = _importance(prior, measurement, told, drawn(), 20_000)
    number = float(draws.num_draws)
    assert number == pytest.approx(1 / float(draws.weights.square().sum()))
    assert 2_000 < number < 20_000
    one = exact.sample(20_000, torch.Generator().manual_seed(0)).double().flatten(1)
    two = draws.prior.images.double().flatten(1)
    for f in (lambda x: x, lambda x: x.square(), lambda x: x.tanh() * x.flip(1)):
        mean = (draws.weights[:, None] * f(two)).sum(dim=0)
        spread = f(one).std(dim=0) * (1 / 20_000 + 1 / number) ** 0.5
        assert ((mean - f(one).mean(dim=0)).abs() < 4.5 * spread).all()
    assert float(draws.num_images) == pytest.approx(float(exact.num_images), rel=0.1)


def test_an_operator_that_is_not_linear_takes_importance_draws_where_images_are_blurred():
    """A little blur changes little: the shares of images are nearly those at w = 0."""
    sharp, blurred = EmpiricalPrior(images()), EmpiricalPrior(images(), 0.02)
    measurement = measure(sharp, PhaseRetrieval(), GaussianNoise(0.5))
    exact, draws = (posterior_of(prior, measurement, drawn(), 8000) for prior in (sharp, blurred))
    assert float(draws.num_draws) > 1000
    shares = torch.zeros(12, dtype=torch.float64).index_add_(0, sharp.nearest(draws.prior.images), draws.weights)
    torch.testing.assert_close(shares, exact.weights, rtol=0, atol=0.05)
    assert tuple(draws.sample(3, drawn()).shape) == (3, *SHAPE)


def test_the_sampler_draws_images_in_their_shares():
    prior = EmpiricalPrior(images())
    measurement = measure(prior, PhaseRetrieval(), GaussianNoise(1.0), "ab")
    samples = ExactEmpirical()(prior, measurement.repeat(4000), Streams(0, list("ab"), 4000)).view(4000, 2, *SHAPE)
    for row in range(2):
        weights = posterior_of(prior, measurement.rows(torch.tensor([row])), drawn()).weights
        counts = prior.nearest(samples[:, row]).bincount(minlength=12)
        often = weights * 4000 > 5
        assert (
            scipy.stats.chisquare(counts[often], weights[often] / weights[often].sum() * counts[often].sum()).pvalue
            > 1e-3
        )
        assert set(map(tuple, samples[:, row].flatten(1).tolist())) <= set(map(tuple, images().flatten(1).tolist()))
    alone = ExactEmpirical()(prior, measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    assert torch.equal(alone[0], samples[0, 1])


class Wrapped(Operator):
    """The image itself, by an operator that does not say that it is linear."""

    measurement_shape = SHAPE

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("prior", "likelihood", "message"),
    [
        (EmpiricalPrior(images()), GaussianNoise(1e-6), "y is continuous and has no noise .*sigma_y = 1e-06.*give"),
        (EmpiricalPrior(images(), 0.3), GaussianNoise(0.003), r"image a: 64 importance draws count for \d+, fewer"),
        (RingPrior(0.1), GaussianNoise(), "ExactEmpirical needs an EmpiricalPrior, got RingPrior"),
    ],
)
def test_what_it_cannot_do_is_one_line(prior, likelihood, message):
    measurement = Measurement(torch.zeros(1, *SHAPE), Wrapped(SHAPE), likelihood)
    with pytest.raises(UserError, match=message) as caught:
        ExactEmpirical(num_draws=64, least_draws=32.0)(prior, measurement, Streams(0, ["a"]))
    assert "\n" not in str(caught.value)


def test_a_measurement_that_no_image_can_have_given_diverges_alone():
    black = EmpiricalPrior(torch.full((2, *SHAPE), -1.0))
    y = torch.stack([torch.full(SHAPE, -1.0), torch.full(SHAPE, 1.0)])  # photons from black images
    samples = ExactEmpirical()(black, Measurement(y, Wrapped(SHAPE), PoissonNoise(0.02)), Streams(0, ["a", "b"]))
    assert torch.equal(samples[0], y[0])
    assert samples[1].isnan().all()
    with pytest.raises(Diverged, match=r"image b, sample 0: NaN .*no image can have given this measurement"):
        ExactEmpirical()(black, Measurement(y[1:], Wrapped(SHAPE), PoissonNoise(0.02)), Streams(0, ["b"]))


def test_signs_without_noise_to_speak_of_are_no_fault():
    prior = EmpiricalPrior(images())
    measurement = measure(prior, SENSING, OneBit(1e-6))
    weights = posterior_of(prior, measurement, drawn()).weights
    agree = (measurement.operator.forward(images()).sign() == measurement.y).flatten(1).all(dim=1)
    torch.testing.assert_close(weights, agree.double() / agree.sum(), rtol=0, atol=1e-9)
