import math
from itertools import pairwise

import pytest
import safetensors.torch
import torch

from posterior import UserError
from posterior.priors import GaussianMixturePrior


def mixture(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 4, 4, generator=generator, dtype=dtype)
    means = 2 * torch.randn(3, 1, 2, 2, generator=generator, dtype=dtype)
    covariances = factors @ factors.mT / 4 + 0.1 * torch.eye(4, dtype=dtype)
    return GaussianMixturePrior.full(torch.tensor([0.2, 0.5, 0.3], dtype=dtype), means, covariances)


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


def low_rank(rank=2, dtype=torch.float64):
    """Six dimensions: the given rank, and white noise of another variance in each component."""
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(3, 6, rank, generator=generator, dtype=dtype))
    variances = 0.3 + torch.rand(3, rank, generator=generator, dtype=dtype)
    means = 2 * torch.randn(3, 1, 2, 3, generator=generator, dtype=dtype)
    weights, rest = (torch.tensor(v, dtype=dtype) for v in ([0.2, 0.5, 0.3], [0.05, 0.1, 0.2]))
    return GaussianMixturePrior(weights, means, directions, variances, rest)


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_low_rank_is_the_mixture_of_its_covariances(sigma):
    prior = low_rank()
    same = GaussianMixturePrior.full(prior.weights, prior.means, prior.covariances)
    x = torch.randn(5, 1, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(x, sigma), same.log_prob(x, sigma))
    torch.testing.assert_close(prior.score(x, sigma), same.score(x, sigma))
    torch.testing.assert_close(prior.responsibilities(x, sigma).sum(dim=1), torch.ones(5, dtype=torch.float64))
    levels = torch.full((5,), sigma + 0.1, dtype=torch.float64)
    torch.testing.assert_close(prior.denoise(x, levels), same.denoise(x, sigma + 0.1))


def test_a_noisy_view_is_bayes_rule():
    prior = low_rank()
    generator = torch.Generator().manual_seed(1)
    anchor, x = (torch.randn(n, 1, 2, 3, generator=generator, dtype=torch.float64) for n in (1, 6))
    posterior = prior.given_anchor(anchor[0], 0.4)
    log_likelihood = -0.5 * ((anchor - x) / 0.4).square().sum(dim=(1, 2, 3))
    evidence = prior.log_prob(x) + log_likelihood - posterior.log_prob(x)  # the same for every x
    torch.testing.assert_close(evidence, evidence[:1].expand(6))


def test_a_saved_mixture_is_the_same(tmp_path):
    prior = low_rank(dtype=torch.float32)
    prior.save(tmp_path / "m.safetensors")
    x = torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    again = GaussianMixturePrior.from_file(tmp_path / "m.safetensors")
    torch.testing.assert_close(again.score(x, 0.1), prior.score(x, 0.1), rtol=1e-4, atol=1e-4)  # scores of some tens
    prior.save(tmp_path / "half.safetensors", torch.float16)
    rounded = GaussianMixturePrior.from_file(tmp_path / "half.safetensors")
    x.requires_grad_()
    (grad,) = torch.autograd.grad(rounded.log_prob(x).sum(), x)
    torch.testing.assert_close(
        rounded.score(x.detach(), 0.0), grad, rtol=1e-4, atol=1e-4
    )  # one law, though a rounded one
    with pytest.raises(UserError, match="does not exist"):
        GaussianMixturePrior.from_file(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"mixture .*bad is not a readable state dict"):
        GaussianMixturePrior.from_file(tmp_path / "bad")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.tensor([0.5, float("nan"), 0.5])}, "weights holds NaN or infinite values"),
        ({"rest": torch.tensor([1, 1, 1])}, "rest is torch.int64, where torch.float32 is needed"),
        ({"means": torch.zeros(3, 6)}, "is not a file of a Gaussian mixture: it must hold weights, means"),
        ({"extra": torch.zeros(1)}, "is not a file of a Gaussian mixture: it must hold weights, means"),
        ({"weights": torch.ones(3)}, "is not a file of a Gaussian mixture: .* sum to 1"),
        ({"means": torch.zeros(0, 1, 2, 3)}, "a part of it is empty"),
    ],
)
def test_files_of_other_contents_are_named(tmp_path, change, message):
    low_rank(dtype=torch.float32).save(tmp_path / "m")
    safetensors.torch.save_file(safetensors.torch.load_file(tmp_path / "m") | change, tmp_path / "other")
    with pytest.raises(UserError, match=f"mixture .*other.*{message}"):
        GaussianMixturePrior.from_file(tmp_path / "other")


def test_the_fit_recovers_a_mixture():
    truth = low_rank(dtype=torch.float32)
    data = truth.sample(6000, torch.Generator().manual_seed(0))
    log = []
    fitted = GaussianMixturePrior.fit(data, 3, 2, num_steps=60, observe=lambda step, value: log.append(value))
    held_out = truth.sample(4000, torch.Generator().manual_seed(1))
    gap = (truth.log_prob(held_out) - fitted.log_prob(held_out)).double()
    assert float(gap.mean()) > -3 * float(gap.std()) / 4000**0.5
    assert float(gap.mean()) < 0.05  # about parameters / (2 N)
    assert log[-1] > log[0]
    assert all(b > a - 1e-3 for a, b in pairwise(log[5:]))  # EM does not go down
    order = torch.cdist(fitted.means.flatten(1), truth.means.flatten(1)).argmin(dim=0)
    torch.testing.assert_close(fitted.weights[order], truth.weights, rtol=0, atol=0.03)
    torch.testing.assert_close(fitted.rest[order], truth.rest, rtol=0.1, atol=0)
    with pytest.raises(UserError, match="cannot fit 3 components of rank 6"):
        GaussianMixturePrior.fit(data, 3, 6)


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
        GaussianMixturePrior.full(good.weights * 2, good.means, good.covariances)
    with pytest.raises(UserError, match="positive definite"):
        GaussianMixturePrior.full(good.weights, good.means, -good.covariances)
    with pytest.raises(UserError, match="do not fit"):
        GaussianMixturePrior.full(good.weights[:2], good.means, good.covariances)
