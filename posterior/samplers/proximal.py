"""A start from the measurement and a few tens of denoising steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule


@dataclass(frozen=True)
class ProximalDenoising(Sampler):
    """Denoise, move to the measurement, re-noise: tens of forward calls, no backward one. A warm start, no sampler.

    Source: `method.md` section 8. At each level sigma the image is denoised to D and replaced by the posterior mean of
    N(D, sigma^2 I) and the measurement (`Measurement.proximal`), then re-noised to the next level. That mean is in
    closed form where A^T A is diagonal in a known basis (inpainting, resizing, separable blurs), otherwise by at most
    100 steps of conjugate gradients (`LinearOperator.solve`).
    Related: Zhu et al., "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPR workshops 2023.

    Args:
        schedule: noise levels, falling to 0.
        clip_denoised: clip D to [-1, 1] (the published samplers do; it biases priors that leave the range).
        num_tries: >= 1 runs, of which each image keeps the one whose last D has the smallest residual: a run that took
            a wrong turn at high noise, the mouth of another face, seldom explains y as well.

    Raises:
        UserError: if num_tries < 1; on a call, before any network call, if A is not linear or the noise not Gaussian.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(30))
    clip_denoised: bool = True
    num_tries: int = 1

    def __post_init__(self) -> None:
        if self.num_tries < 1:
            raise UserError(f"ProximalDenoising: num_tries must be >= 1, got {self.num_tries}")

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        measurement.linear_operator("ProximalDenoising")
        measurement.gaussian_sigma("ProximalDenoising")
        best, fit = self._attempt(0, prior, measurement, rng, observe)
        for number in range(1, self.num_tries):
            x, misfit = self._attempt(number, prior, measurement, rng, observe)
            best = torch.where((misfit < fit).view(-1, 1, 1, 1), x, best)
            fit = torch.minimum(misfit, fit)
        return check_finite(best, rng, "proximal denoising")

    def _attempt(
        self, number: int, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer
    ) -> tuple[Tensor, Tensor]:
        """An estimate, (R, C, H, W), and the residual of its last denoised image, (R,): infinite for NaN."""
        levels = self.schedule.sigmas()
        steps = len(levels) - 1
        x = initial_noise(measurement.image_shape, levels[0], rng)
        denoised = x
        for index, (sigma, sigma_next) in enumerate(pairwise(levels), start=1):
            denoised = prior.denoise(x, sigma)
            if self.clip_denoised:
                denoised = denoised.clamp(-1, 1)
            estimate = measurement.proximal(denoised, sigma)
            x = estimate + sigma_next * rng.randn_like("proximal", x) if sigma_next > 0 else estimate
            observe("proximal denoising", number * steps + index, self.num_tries * steps, x)
        return x, measurement.relative_residual(denoised).nan_to_num(nan=torch.inf)
