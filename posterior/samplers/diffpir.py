"""Denoising diffusion models for plug-and-play image restoration."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import real
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, clipped, unobserved
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.samplers.schedules import QuadraticSigmas, SigmaSchedule, levels_within


@dataclass(frozen=True)
class DiffPIR(Sampler):
    """DiffPIR: denoise, move to the measurement, renoise with a share of the noise that was there.

    Source: Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool, "Denoising Diffusion Models for Plug-and-Play Image
    Restoration", CVPR workshops 2023, arXiv:2305.08995, Algorithm 1, in sigma units:

        x0 = D(x, sigma)
        x0hat = argmin ||y - A x0||^2 + rho ||x0 - D||^2, rho = lam sigma_y^2 / sigma^2
        x' = x0hat + sigma' (sqrt(1 - zeta) (x - x0hat) / sigma + sqrt(zeta) n)

    The authors' code starts from the diffused y, overwrites measured pixels by y in the end instead of a last step, and
    has sigma_y of images in [0, 1] for images in [-1, 1]: its lam is four times the one here. InverseBench has
    rho = 2 lam sigma_y^2 / (sigma^2 / (1 + sigma^2)), and by default one gradient step of length 1 / (2 rho) in place
    of the minimum, which diverges where rho is small.

    Args:
        schedule: noise levels (published: 100 in quadratic spacing, 20 for inpainting without noise).
        lam: lambda > 0, the weight of D against y (published: 1 by the code's sigma_y, that is 0.25).
        zeta: in [0, 1], the share of fresh noise (published: 0.25 for super-resolution, 0.1 for deblurring, 1 for
            inpainting).
        clip_denoised: clip D to [-1, 1] (published: yes).

    Raises:
        UserError: if a number is out of range; on a call, before any network call, if A is not linear or the noise not
            Gaussian.
    """

    schedule: SigmaSchedule = field(default_factory=QuadraticSigmas)
    lam: float = 0.25
    zeta: float = 0.25
    clip_denoised: bool = True

    def __post_init__(self) -> None:
        real("DiffPIR", "lam", self.lam, above=0)
        real("DiffPIR", "zeta", self.zeta, least=0, most=1)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        measurement.linear_operator("DiffPIR")
        measurement.gaussian_sigma("DiffPIR")
        sigmas = levels_within(self.schedule, prior)
        x = initial_noise(measurement.image_shape, sigmas[0], rng)
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            denoised = prior.denoise(x, sigma)
            denoised = clipped(denoised) if self.clip_denoised else denoised
            x = self.renoise(x, self.restore(measurement, denoised, sigma), sigma, sigma_next, rng)
            observe("DiffPIR", index, len(sigmas) - 1, x)
        return check_finite(x, rng, "DiffPIR")

    def restore(self, measurement: Measurement, denoised: Tensor, sigma: float) -> Tensor:
        """x0hat, (R, C, H, W)."""
        sigma_y = measurement.gaussian_sigma("DiffPIR")
        return measurement.proximal(denoised, sigma_y / self.rho(sigma_y, sigma) ** 0.5)

    def rho(self, sigma_y: float, sigma: float) -> float:
        """The weight of D against y at a level."""
        return self.lam * (sigma_y / sigma) ** 2

    def renoise(self, x: Tensor, restored: Tensor, sigma: float, sigma_next: float, rng: Streams) -> Tensor:
        """x at sigma_next, (R, C, H, W)."""
        if sigma_next == 0:
            return restored
        kept = (1 - self.zeta) ** 0.5 * (x - restored) / sigma
        return restored + sigma_next * (kept + self.zeta**0.5 * rng.randn_like("diffpir", x))
