"""A start from the measurement and a few tens of denoising steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from posterior.checks import choice
from posterior.measurement import Measurement
from posterior.operators.base import inner
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, clipped, unobserved
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within

Covariance = Literal["identity", "jacobian"]


@dataclass(frozen=True)
class ProximalDenoising(Sampler):
    """Denoise, move to the measurement, re-noise: tens of forward calls, no backward one. A warm start, no sampler.

    Source: docs/method.md section 8. At each level sigma the image is denoised to D and replaced by the posterior mean
    of N(D, sigma^2 I) and the measurement (`Measurement.proximal`), then re-noised to the next level. That mean is in
    closed form where A^T A is diagonal in a known basis (inpainting, resizing, separable blurs), otherwise by at most
    100 steps of conjugate gradients (`LinearOperator.solve`).
    Related: Zhu et al., "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPR workshops 2023.

    With ``covariance: jacobian`` D is first replaced by `correlated`'s image, for a second call a level: what y says of
    the measured directions is carried to the others as the prior correlates them.

    Args:
        schedule: noise levels, falling to 0.
        clip_denoised: clip D to [-1, 1] (the published samplers do; it biases priors that leave the range).
        covariance: of x0 given x: ``identity`` (times sigma^2), or ``jacobian``, sigma^2 dD/dx.

    Raises:
        UserError: on a call, before any network call, if A is not linear or the noise not Gaussian.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(30))
    clip_denoised: bool = True
    covariance: Covariance = "identity"

    def __post_init__(self) -> None:
        choice("ProximalDenoising", "covariance", self.covariance, Covariance)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        measurement.linear_operator("ProximalDenoising")
        measurement.gaussian_sigma("ProximalDenoising")
        levels = levels_within(self.schedule, prior)
        x = initial_noise(measurement.image_shape, levels[0], rng)
        for index, (sigma, sigma_next) in enumerate(pairwise(levels), start=1):
            denoised = self._denoise(prior, x, sigma)
            if self.covariance == "jacobian":
                denoised = self.correlated(prior, measurement, x, denoised, sigma)
            estimate = measurement.proximal(denoised, sigma)
            x = estimate + sigma_next * rng.randn_like("proximal", x) if sigma_next > 0 else estimate
            observe("proximal denoising", index, len(levels) - 1, x)
        return check_finite(x, rng, "proximal denoising")

    def _denoise(self, prior: Prior, x: Tensor, sigma: float) -> Tensor:
        denoised = prior.denoise(x, sigma)
        return clipped(denoised) if self.clip_denoised else denoised

    def correlated(
        self, prior: Prior, measurement: Measurement, x: Tensor, denoised: Tensor, sigma: float, most: float = 10.0
    ) -> Tensor:
        """D moved along one direction w towards E[x0 | x, y], x0 given x being N(D, sigma^2 J), J = dD/dx.

        J is symmetric and sigma^2 J the covariance of x0 given x (Tweedie's second formula). With u = prox(D) - D, what
        the measurement asks of D, w = D(x + u) - D(x) is J u for one forward call. D + a w minimises

            ||y - A (D + a w)||^2 / sigma_y^2 + a^2 w^T (sigma^2 J)^-1 w,    w^T J^-1 w = u^T w,

        over 0 <= a <= ``most``: one step of conjugate gradients. Rozet et al. (NeurIPS 2024) take several, by backward
        calls.
        """
        operator, sigma_y = measurement.linear_operator("ProximalDenoising"), measurement.likelihood.sigma_y
        u = measurement.proximal(denoised, sigma) - denoised
        w = self._denoise(prior, x + u, sigma) - denoised
        missing, moved = operator.restrict(measurement.y - measurement.observed(denoised)), measurement.observed(w)
        seen, asked = (inner(one, moved).view(-1, 1, 1, 1) for one in (moved, missing))
        curvature = seen + (sigma_y / sigma) ** 2 * inner(u, w).clamp_min(0)
        return denoised + (asked / curvature.clamp_min(1e-30)).clamp(0, most) * w
