"""One-bit measurements and their annealed law, against probabilities of scipy."""

import numpy as np
import pytest
import scipy.stats
import torch

from posterior import UserError
from posterior.noise import GaussianNoise, PoissonNoise, VaryingNoise
from posterior.one_bit import BlurredBits, OneBit

CLEAN = torch.tensor([[-1.2, -0.3, 0.0, 0.4, 2.0]], dtype=torch.float64)
LAWS = {
    "one bit": OneBit(0.5),
    "annealed": OneBit(0.5).annealed(0.3, CLEAN),
    "twice": BlurredBits(0.5, 0.1).annealed(0.2, CLEAN),
}


def test_signs_have_their_probabilities():
    noise = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    law = OneBit(0.5)
    y = law.sample(CLEAN.expand(40_000, -1), noise.expand(-1, 5))
    assert set(y.unique().tolist()) == {-1.0, 1.0}
    expected = scipy.stats.norm.cdf(CLEAN[0] / 0.5)
    assert np.abs((y > 0).double().mean(dim=0).numpy() - expected).max() < 4 * 0.5 / 200
    np.testing.assert_allclose(law.log_prob(torch.ones_like(CLEAN), CLEAN)[0], np.log(expected), rtol=1e-9)
    both = law.log_prob(torch.ones_like(CLEAN), CLEAN).exp() + law.log_prob(-torch.ones_like(CLEAN), CLEAN).exp()
    torch.testing.assert_close(both, torch.ones_like(CLEAN))


def test_the_annealed_law_is_that_of_signs_with_noise_added():
    law = OneBit(0.5).annealed(0.3, CLEAN)
    assert law.sigma_y == pytest.approx(0.55**0.5)
    for clean in CLEAN[0].tolist():
        p = scipy.stats.norm.cdf(clean / 0.5)
        for y in (-1.7, 0.2, 1.1):
            density = p * scipy.stats.norm.pdf(y, 1, 0.3**0.5) + (1 - p) * scipy.stats.norm.pdf(y, -1, 0.3**0.5)
            found = law.log_prob(torch.tensor([[y]], dtype=torch.float64), torch.tensor([[clean]], dtype=torch.float64))
            assert float(found) == pytest.approx(np.log(density), rel=1e-9)
    noise = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = law.sample(torch.full((40_000, 1), 0.3, dtype=torch.float64), noise).flatten().numpy()
    p = scipy.stats.norm.cdf(0.6)
    cdf = lambda t: p * scipy.stats.norm.cdf(t, 1, 0.3**0.5) + (1 - p) * scipy.stats.norm.cdf(t, -1, 0.3**0.5)  # noqa: E731
    assert scipy.stats.kstest(y, cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", LAWS)
def test_the_score_is_the_gradient_of_the_log_density(name):
    law = LAWS[name]
    for y in (1.0, -1.0) if name == "one bit" else (1.3, -0.2):
        clean = CLEAN.clone().requires_grad_()
        at = torch.full_like(CLEAN, y)
        (grad,) = torch.autograd.grad(law.log_prob(at, clean).sum(), clean)
        torch.testing.assert_close(law.score(at, CLEAN), grad)
        assert law.distance(at, CLEAN).shape == (1,)
        near, far = law.distance(at, CLEAN.abs() * y), law.distance(at, -CLEAN.abs() * y)
        assert float(near) < float(far)


def test_a_sign_that_is_far_off_keeps_a_finite_pull():
    law, far = OneBit(0.1), torch.tensor([[-4.0]])
    score = law.score(torch.ones(1, 1), far)
    assert float(score) == pytest.approx(4.0 / 0.01, rel=0.01)  # as of a Gaussian whose mean is at the border


@pytest.mark.parametrize("u", [-40.0, -1e3, -1e5])
def test_float32_loses_nothing_far_from_the_sign_that_was_seen(u):
    """phi / Phi at u is -u + 1 / |u| at most (Mills' ratio); the distance's slope is that of |u|."""
    law, y = OneBit(0.5), torch.ones(1, 1)
    far = torch.full((1, 1), 0.5 * u, requires_grad=True)
    assert float(law.score(y, far.detach())) == pytest.approx(-u / 0.5, rel=1e-3)
    (slope,) = torch.autograd.grad(law.distance(y, far).sum(), far)
    assert float(slope) == pytest.approx(-1.0, rel=2e-2)
    assert law.distance(y, far).dtype == torch.float32
    blurred = BlurredBits(0.5, 0.3)
    (slope,) = torch.autograd.grad(blurred.distance(torch.full((1, 1), 3.0), far).sum(), far)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("sigma_y", [0.0, -1.0, float("nan")])
def test_the_noise_must_be_positive(sigma_y):
    with pytest.raises(UserError, match="OneBit: sigma_y must be > 0"):
        OneBit(sigma_y)


def test_gaussian_and_photon_densities_are_scipys():
    y, clean = (
        torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64),
        torch.tensor([[0.1, 0.5, 1.0]], dtype=torch.float64),
    )
    expected = scipy.stats.norm.logpdf(y, clean, 0.4)
    np.testing.assert_allclose(GaussianNoise(0.4).log_prob(y, clean), expected, rtol=1e-12)
    np.testing.assert_allclose(VaryingNoise(torch.full((1, 3), 0.16)).log_prob(y, clean), expected, rtol=1e-6)
    law = PoissonNoise(0.05)  # 12.75 photons where it is brightest
    for level in (-1.5, -1.0, -0.4, 0.9, 1.2):
        mean = 12.75 * min(max((level + 1) / 2, 0), 1)
        counts = torch.arange(13, dtype=torch.float64)[None]
        found = law.log_prob(law.measured(counts), torch.full_like(counts, level))
        np.testing.assert_allclose(found[0].exp(), scipy.stats.poisson.pmf(counts[0], mean), rtol=1e-8, atol=1e-300)
        beyond = law.log_prob(torch.ones(1, 1), torch.full((1, 1), level)).exp()
        assert float(beyond) == pytest.approx(scipy.stats.poisson.sf(12, mean), rel=1e-6)
