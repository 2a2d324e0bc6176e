"""Jacobian-free posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from posterior.checks import real
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.dps import ConditionedDiffusion
from posterior.samplers.reverse_diffusion import Ancestral, ReverseStep
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule


@dataclass(frozen=True)
class JFPS(ConditionedDiffusion):
    """JFPS: reverse diffusion with E[x0 | x, y] in place of D, x0 given x being N(D, q^2 I): forward calls alone.

    Source: azula (F. Rozet), `azula.guidance.JFPSDenoiser`; no paper is named there. The covariance of x0 given x is
    that of images of variance tau^2 without correlations, q^2 = sigma^2 tau^2 / (sigma^2 + tau^2):

        D_y = D + A^T (A A^T + sigma_y^2 / q^2 I)^-1 (y - A D)

    Exact for such a prior; for others, what y says of one coordinate reaches the rest only as D sees it in x. azula
    takes any covariance of images, and a step of conjugate gradients where this has a closed form
    (`Measurement.proximal`). With tau = 1 it is what `PiGDM` puts through J.

    Args:
        schedule: noise levels.
        step: from level to level.
        signal_std: tau > 0, standard deviation of an image's numbers.

    Raises:
        UserError: if signal_std is out of range; on a call, before any evaluation of the prior, if the operator is not
            linear or the noise not Gaussian.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(100))
    step: ReverseStep = field(default_factory=Ancestral)
    signal_std: float = 0.5

    def __post_init__(self) -> None:
        real("JFPS", "signal_std", self.signal_std, above=0)

    @torch.no_grad()
    def advance(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> Tensor:
        denoised = self.condition(prior, measurement, x, sigma)
        return self.step(x, denoised, None, sigma, sigma_next, partial(rng.randn_like, "jfps", x))

    def condition(self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float) -> Tensor:
        """D_y(x, sigma), (R, C, H, W)."""
        measurement.linear_operator("JFPS")
        measurement.gaussian_sigma("JFPS")
        q = (1 / sigma**2 + 1 / self.signal_std**2) ** -0.5
        return measurement.proximal(prior.denoise(x, sigma), q)
