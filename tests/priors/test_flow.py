"""Velocity networks: both conventions are the denoiser of the path that they are named after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from posterior import UserError
from posterior.priors import FlowPrior
from tests.formats import ROUNDING, Velocity, sampled, shipped

VARIANCE = 0.3


class GaussianVelocity(nn.Module):
    """E[d x_t / dt | x_t] for x0 ~ N(0, VARIANCE), by the covariance of the path's end points with x_t."""

    def __init__(self, time, scale=1.0):
        super().__init__()
        self.time, self.scale = time, scale
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x_t, t):
        t = t.view(-1, 1, 1, 1) / self.scale
        image, noise = (1 - t, t) if self.time == "noise" else (t, 1 - t)
        total = image**2 * VARIANCE + noise**2
        sign = 1 if self.time == "noise" else -1
        return sign * (noise - image * VARIANCE) / total * x_t * self.gain


@pytest.mark.parametrize("time", ["noise", "data"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_denoiser_is_the_conditional_mean(time, scale):
    prior = FlowPrior(GaussianVelocity(time, scale), time, scale)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([0.01, 1.0, 500.0])
    expected = x * (VARIANCE / (VARIANCE + levels**2)).view(-1, 1, 1, 1)
    torch.testing.assert_close(prior.denoise(x, levels), expected, rtol=1e-4, atol=1e-5)
    for row, sigma in enumerate(levels.tolist()):
        torch.testing.assert_close(prior.denoise(x, sigma)[row], expected[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("time", ["noise", "data"])
def test_the_shipped_prior_in_this_form_gives_the_native_runs_samples(time):
    toon = shipped()
    prior = FlowPrior(Velocity(toon, time), time, sigma_min=toon.sigma_min, sigma_max=toon.sigma_max)
    assert (sampled(prior) - sampled(toon)).abs().max() < ROUNDING


def test_the_other_convention_is_another_prior_and_says_so(tmp_path):
    one, other = (FlowPrior(GaussianVelocity("noise"), time) for time in ("noise", "data"))
    assert one.fingerprint() != other.fingerprint()
    torch.save(GaussianVelocity("noise").state_dict(), tmp_path / "v.pt")
    assert (
        FlowPrior(GaussianVelocity("noise"), "noise", checkpoint=tmp_path / "v.pt").fingerprint() == one.fingerprint()
    )
    for settings, told in (
        ({"time_scale": 0.0}, "time_scale must be > 0"),
        ({"sigma_min": 0.0}, "sigma_min must be > 0"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_max must be > 2"),
    ):
        with pytest.raises(UserError, match=told):
            FlowPrior(GaussianVelocity("noise"), "noise", **settings)
    with pytest.raises(UserError, match=r"outside \[0\.001, 999\]"):
        one.denoise(torch.zeros(1, 1, 2, 2), 1000.0)
