"""Priors in other words: another range of values, grey ones for colour."""

from __future__ import annotations

import pytest
import torch

from posterior import UserError
from posterior.priors import ChannelwisePrior, GaussianFieldPrior, RescaledPrior, ScoreNetworkPrior
from tests.priors.test_score_network import GaussianScore


def images(channels):
    return torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_a_prior_of_another_range_is_the_same_gaussian(low, high):
    """u ~ N(0, 0.5) in [low, high] is x ~ N(shift, 0.5 scale^2) here."""
    inner = ScoreNetworkPrior(GaussianScore("score"), 0.01, 50.0)
    prior = RescaledPrior(inner, low, high)
    scale, mean = 2 / (high - low), -1 - 2 * low / (high - low)
    assert (prior.sigma_min, prior.sigma_max) == pytest.approx((0.01 * scale, 50 * scale))
    x, variance = images(2), 0.5 * scale**2
    for sigma in (0.02 * scale, scale, torch.tensor([0.05, 10.0]) * scale):
        level = sigma.view(-1, 1, 1, 1) if isinstance(sigma, torch.Tensor) else sigma
        expected = mean + variance / (variance + level**2) * (x - mean)
        torch.testing.assert_close(prior.denoise(x, sigma), expected, rtol=1e-4, atol=1e-4)
    assert prior.curvature(scale) == pytest.approx(1 / scale**2)
    assert (prior.fingerprint() == RescaledPrior(inner).fingerprint()) == ((low, high) == (0.0, 1.0))
    assert prior.value_range == (-1, 1)
    with pytest.raises(UserError, match="high must be > 0"):
        RescaledPrior(inner, 0.0, 0.0)


def test_a_grey_prior_takes_each_channel_as_an_image():
    grey = GaussianFieldPrior([0.3], [[1.0]], [0.02], [2.0], [0.05])
    prior, x = ChannelwisePrior(grey), images(3)
    for sigma in (0.5, torch.tensor([0.1, 2.0])):
        found = prior.denoise(x, sigma)
        for channel in range(3):
            one = x[:, channel : channel + 1]
            torch.testing.assert_close(found[:, channel : channel + 1], grey.denoise(one, sigma))
    assert prior.cost.forward == 4
    assert prior.check_images((3, 4, 4)) is None
    with pytest.raises(UserError, match="take images of 3 channels"):
        prior.check_images((1, 4, 4))
    with pytest.raises(UserError, match="prior must be of images with 1 channel, not of 3"):
        ChannelwisePrior(prior)


@pytest.mark.parametrize("sigma", [0.0, 1e-4])
def test_scores_where_nothing_is_smoothed_are_those_of_the_other_prior(sigma):
    grey, x = GaussianFieldPrior([0.3], [[1.0]], [0.02], [2.0], [0.05]), images(3)
    channelwise, rescaled = ChannelwisePrior(grey), RescaledPrior(grey, 0.0, 1.0)
    for channel in range(3):
        one = x[:, channel : channel + 1]
        torch.testing.assert_close(channelwise.score(x, sigma)[:, channel : channel + 1], grey.score(one, sigma))
    one = x[:, :1]
    torch.testing.assert_close(rescaled.score(one, sigma), grey.score((one + 1) / 2, sigma / 2) / 2)
    assert channelwise.cost.forward == 3 * len(x)
