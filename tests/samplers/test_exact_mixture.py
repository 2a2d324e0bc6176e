import pytest
import torch

from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import Dense, GaussianBlur, MotionBlur, PhaseRetrieval, RandomInpainting, SuperResolution
from posterior.priors import GaussianMixturePrior
from posterior.samplers import ExactMixture, MixturePosterior

SHAPE = (1, 4, 6)
FAMILIES = {
    "inpainting": RandomInpainting(),
    "super-resolution": SuperResolution(2, "average"),
    "blur": GaussianBlur(3, 0.8),
    "motion blur": MotionBlur(3),
}


@pytest.fixture
def prior():
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(3, 24, 4, generator=generator))
    variances = 0.2 + torch.rand(3, 4, generator=generator)
    means = torch.randn(3, *SHAPE, generator=generator)
    return GaussianMixturePrior(
        torch.tensor([0.2, 0.5, 0.3]), means, directions, variances, torch.tensor([0.05, 0.1, 0.2])
    )


def measure(prior, family, ids="a", sigma_y=0.3):
    truth = prior.sample(len(ids), torch.Generator().manual_seed(3))
    operator = family.realise(SHAPE, [stream(0, i, -1, "operator") for i in ids])
    noise = torch.randn(len(ids), *operator.measurement_shape, generator=torch.Generator().manual_seed(4))
    return Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_posterior_is_conditioning_by_matrices(prior, name):
    """Component by component: weight, mean and covariance of the Gaussian formulas, written out."""
    measurement = measure(prior, FAMILIES[name])
    posterior = MixturePosterior(prior, measurement)
    matrix, y = posterior.matrix, posterior.y
    assert len(y) == int(measurement.operator.num_measured().flatten()[0])
    log_weights = []
    for k, covariance in enumerate(prior.covariances.double()):
        mean = prior.means[k].flatten().double()
        gram = matrix @ covariance @ matrix.mT + 0.09 * torch.eye(len(y), dtype=torch.float64)
        gain = covariance @ matrix.mT @ torch.linalg.inv(gram)
        torch.testing.assert_close(posterior.means[k].flatten(), mean + gain @ (y - matrix @ mean))
        torch.testing.assert_close(posterior.covariance(k), covariance - gain @ matrix @ covariance)
        law = torch.distributions.MultivariateNormal(matrix @ mean, gram)
        log_weights.append(prior.weights[k].double().log() + law.log_prob(y))
    torch.testing.assert_close(posterior.weights, torch.stack(log_weights).softmax(dim=0))
    torch.testing.assert_close(posterior.log_evidence, torch.stack(log_weights).logsumexp(dim=0))


def test_the_density_is_that_of_its_components(prior):
    posterior = MixturePosterior(prior, measure(prior, RandomInpainting()))
    components = torch.distributions.MultivariateNormal(
        posterior.means.flatten(1), torch.stack([posterior.covariance(k) for k in range(3)])
    )
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(posterior.weights), components)
    x = posterior.sample(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(posterior.log_prob(x), law.log_prob(x.flatten(1).double()), rtol=1e-4, atol=1e-3)


def test_samples_have_the_moments(prior):
    posterior, count = MixturePosterior(prior, measure(prior, SuperResolution(2, "average"))), 40_000
    samples = posterior.sample(count, torch.Generator().manual_seed(0)).flatten(1).double()
    means = posterior.means.flatten(1)
    within = sum(w * posterior.covariance(k) for k, w in enumerate(posterior.weights))
    centred = means - posterior.mean.flatten()
    covariance = within + torch.einsum("k,ki,kj->ij", posterior.weights, centred, centred)
    largest = float(covariance.diagonal().max())
    assert (samples.mean(dim=0) - posterior.mean.flatten()).abs().max() < 5 * (largest / count) ** 0.5
    assert (samples.T.cov() - covariance).abs().max() < 5 * 1.5 * largest / count**0.5


def test_the_sampler_draws_from_each_images_posterior(prior):
    measurement = measure(prior, RandomInpainting(), ids="ab")
    samples = ExactMixture()(prior, measurement.repeat(4000), Streams(0, list("ab"), 4000)).view(4000, 2, -1)
    for row in (0, 1):
        posterior = MixturePosterior(prior, measurement.rows(torch.tensor([row])))
        error = samples[:, row].double().mean(dim=0) - posterior.mean.flatten()
        assert (error.abs() < 5 * samples[:, row].std(dim=0) / 4000**0.5).all()
    alone = ExactMixture()(prior, measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    torch.testing.assert_close(alone[0].flatten(), samples[0, 1], rtol=1e-4, atol=1e-5)


def test_what_has_no_exact_posterior_is_refused(prior, field):
    measurement = measure(prior, RandomInpainting())
    with pytest.raises(UserError, match="needs a GaussianMixturePrior, got GaussianFieldPrior"):
        ExactMixture()(field, measurement, Streams(0, ["a"]))
    amplitudes = PhaseRetrieval().realise(SHAPE)
    unknown = Measurement(torch.zeros(1, *amplitudes.measurement_shape), amplitudes, GaussianNoise(0.1))
    with pytest.raises(UserError, match="needs a linear operator"):
        MixturePosterior(prior, unknown)
    photons = Measurement(measurement.y, measurement.operator, PoissonNoise(1.0))
    with pytest.raises(UserError, match="needs Gaussian noise"):
        MixturePosterior(prior, photons)
    with pytest.raises(UserError, match="one image, got 2"):
        MixturePosterior(prior, measure(prior, RandomInpainting(), ids="ab"))
    dense = Measurement(torch.zeros(1, 2, 1, 1), Dense(torch.ones(2, 24), SHAPE), GaussianNoise(0.1))
    assert MixturePosterior(prior, dense).weights.sum() == pytest.approx(1)
