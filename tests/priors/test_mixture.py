import math

import pytest
import torch

from posterior import UserError
from posterior.priors import GaussianMixturePrior


def mixture(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 4, 4, generator=generator, dtype=dtype)
    means = 2 * torch.randn(3, 1, 2, 2, generator=generator, dtype=dtype)
    covariances = factors @ factors.mT / 4 + 0.1 * torch.eye(4, dtype=dtype)
    return GaussianMixturePrior(torch.tensor([0.2, 0.5, 0.3], dtype=dtype), means, covariances)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_density_and_score_match_torch_distributions(sigma):
    prior = mixture()
    components = torch.distributions.MultivariateNormal(
        prior.means.flatten(1), prior.covariances + sigma**2 * torch.eye(4)
    )
    reference = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(prior.weights), components)
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    log_prob = reference.log_prob(x.flatten(1))
    torch.testing.assert_close(prior.log_prob(x, sigma), log_prob)
    (grad,) = torch.autograd.grad(log_prob.sum(), x)
    torch.testing.assert_close(prior.score(x.detach(), sigma), grad)


def test_the_posterior_obeys_bayes_rule():
    prior = mixture()
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    y, variances = torch.randn(2, generator=generator, dtype=torch.float64), torch.tensor([0.3, 0.1])
    posterior = prior.posterior(matrix, y, variances.double())
    x = torch.randn(6, 1, 2, 2, generator=generator, dtype=torch.float64)
    log_likelihood = -0.5 * ((y - x.flatten(1) @ matrix.T) ** 2 / variances).sum(dim=1)
    evidence = prior.log_prob(x) + log_likelihood - posterior.log_prob(x)  # the same for every x
    torch.testing.assert_close(evidence, evidence[:1].expand(6))


def test_samples_have_the_moments():
    prior, count = mixture(), 50_000
    samples = prior.sample(count, torch.Generator().manual_seed(0)).flatten(1)
    means = prior.means.flatten(1)
    mean = prior.weights @ means
    second = torch.einsum("k,kij->ij", prior.weights, prior.covariances + means[:, :, None] * means[:, None])
    spread = math.sqrt(float(second.diagonal().max()) / count)
    assert (samples.mean(dim=0) - mean).abs().max() < 5 * spread
    assert (samples.T @ samples / count - second).abs().max() < 5 * 2 * float(second.diagonal().max()) / count**0.5


def test_bad_mixtures_are_refused():
    good = mixture()
    with pytest.raises(UserError, match="sum to 1"):
        GaussianMixturePrior(good.weights * 2, good.means, good.covariances)
    with pytest.raises(UserError, match="positive definite"):
        GaussianMixturePrior(good.weights, good.means, -good.covariances)
    with pytest.raises(UserError, match="do not fit"):
        GaussianMixturePrior(good.weights[:2], good.means, good.covariances)
