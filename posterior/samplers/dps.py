"""Diffusion posterior sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.reverse_diffusion import Ancestral, ReverseStep, initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule


@dataclass(frozen=True)
class DPS(Sampler):
    """DPS: a step of reverse diffusion, then a step down the residual norm of the denoised image.

    Source: Chung et al., ICLR 2023, arXiv:2209.14687, Algorithm 1, in sigma units (`method.md` section 5). Departs from
    the published code in that the norm is taken per image, where that code takes it over the whole batch (and in what
    is measured: `Measurement.simulate`).

    Args:
        schedule: noise levels (published: all 1000).
        step: the unguided step.
        scale: step size zeta > 0 of the data term (published: 0.3, inpainting 0.5).
        clip_denoised: clip D to [-1, 1] (published: yes; clipped pixels then give no gradient).

    Raises:
        UserError: if scale <= 0.
    """

    schedule: SigmaSchedule = field(default_factory=RespacedSigmas)
    step: ReverseStep = field(default_factory=Ancestral)
    scale: float = 0.3
    clip_denoised: bool = True

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"DPS: scale must be > 0, got {self.scale}")

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        sigmas = self.schedule.sigmas()
        x = initial_noise(measurement.image_shape, sigmas[0], rng)
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            x = self.guided_step(prior, measurement, x, sigma, sigma_next, partial(rng.randn_like, "dps", x))
            observe("DPS", index, len(sigmas) - 1, x)
        return check_finite(x, rng, "DPS")

    def guided_step(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        draw: Callable[[], Tensor],
    ) -> Tensor:
        """x at sigma_next from x at sigma, (R, C, H, W); ``draw`` gives the unguided step's noise."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised, fraction = prior.predict(x, sigma)
            if self.clip_denoised:
                denoised = denoised.clamp(-1, 1)
            distance = measurement.distance(denoised)  # one per row: rows do not see each other
            (grad,) = torch.autograd.grad(distance.sum(), x)
        with torch.no_grad():
            unguided = self.step(x, denoised, fraction, sigma, sigma_next, draw)
            return unguided - self.scale * ((1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * grad
