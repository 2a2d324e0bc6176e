"""Diffusion posterior sampling, and the other conditioning methods that its code offers.

The DPS code's names: `ps` is `DPS`, `ps+` is `DPSPlus`, `mcg` is `MCG`, `projection` is `Projection`, and `vanilla` (no
conditioning) is `ReverseDiffusion`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_SAMPLES, real, whole
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, clipped, unobserved
from posterior.samplers.reverse_diffusion import Ancestral, ReverseStep, initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within


class ConditionedDiffusion(Sampler):
    """Reverse diffusion whose every step is pulled towards the measurement; the ways to do so are its subclasses."""

    schedule: SigmaSchedule
    projects: ClassVar[bool] = False
    """Whether `project` follows every step; the operator must then be linear."""

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        name = type(self).__name__
        squared_norm = None  # () or (R,)
        if self.projects:
            norm = measurement.linear_operator(name).norm()
            squared_norm = waits.to_device("operator norm", norm**2, measurement.y)
        sigmas = levels_within(self.schedule, prior)
        x = initial_noise(measurement.image_shape, sigmas[0], rng)
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            x = self.advance(prior, measurement, x, sigma, sigma_next, rng)
            if squared_norm is not None:
                x = project(x, measurement, sigma_next, squared_norm, rng)
            observe(name, index, len(sigmas) - 1, x)
        return check_finite(x, rng, name)

    @abstractmethod
    def advance(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> Tensor:
        """x at sigma_next from x at sigma, (R, C, H, W)."""


def project(x: Tensor, measurement: Measurement, sigma: float, squared_norm: Tensor, rng: Streams) -> Tensor:
    """x + A^T (y + sigma A n - A x) / ||A||^2, (R, C, H, W); ``squared_norm`` is (), or (R,) one per row."""
    operator = measurement.linear_operator("projection")
    noise = sigma * rng.randn_like("measured noise", x) if sigma > 0 else torch.zeros_like(x)
    return x + operator.adjoint(measurement.y - operator.forward(x - noise)) / squared_norm.to(x).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class DPS(ConditionedDiffusion):
    """DPS: a step of reverse diffusion, then a step down the residual norm of the denoised image.

    Source: Chung et al., ICLR 2023, arXiv:2209.14687, Algorithm 1, in sigma units (docs/method.md section 5). Departs
    from the published code in that the norm is taken per image, where that code takes it over the whole batch (and in
    what is measured: `Measurement.simulate`).

    Args:
        schedule: noise levels (published: all 1000).
        step: the unguided step.
        scale: step size zeta > 0 of the data term (published: 0.3, inpainting 0.5, phase retrieval 1.0).
        clip_denoised: clip D to [-1, 1] (published: yes; clipped pixels then give no gradient).

    Raises:
        UserError: if scale <= 0.
    """

    schedule: SigmaSchedule = field(default_factory=RespacedSigmas)
    step: ReverseStep = field(default_factory=Ancestral)
    scale: float = 0.3
    clip_denoised: bool = True

    def __post_init__(self) -> None:
        real(type(self).__name__, "scale", self.scale, above=0)

    def advance(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised, fraction = prior.predict(x, sigma)
            if self.clip_denoised:
                denoised = clipped(denoised)
            misfit = self.misfit(measurement, denoised, rng, sigma)  # one per row: rows do not see each other
            (grad,) = torch.autograd.grad(misfit.sum(), x)
        with torch.no_grad():
            unguided = self.step(x, denoised, fraction, sigma, sigma_next, partial(rng.randn_like, "dps", x))
            return unguided - self.scale * ((1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * grad

    def misfit(self, measurement: Measurement, denoised: Tensor, rng: Streams, sigma: float) -> Tensor:
        """What the step goes down, one number per row, (R,); ``sigma`` is the level that D comes from."""
        return measurement.distance(denoised)


@dataclass(frozen=True)
class DPSPlus(DPS):
    """`ps+` of the DPS code: the misfit is averaged over noisy copies of the denoised image.

    As published: copies D + spread * U(0, 1), whose noise has not mean zero, so the average is biased; and the misfit
    is ||y - A x||, whatever the noise.

    Args:
        copies: >= 1 (published: 5).
        spread: >= 0 (published: 0.05).

    Raises:
        UserError: if a number is out of range.
    """

    copies: int = 5
    spread: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("DPSPlus", "copies", self.copies, 1, MOST_SAMPLES)
        real("DPSPlus", "spread", self.spread, least=0)

    def misfit(self, measurement: Measurement, denoised: Tensor, rng: Streams, sigma: float) -> Tensor:
        noisy = (denoised + self.spread * rng.rand_like("copies", denoised) for _ in range(self.copies))
        return torch.stack([measurement.residual_norm(copy) for copy in noisy]).mean(dim=0)


@dataclass(frozen=True)
class Projection(ConditionedDiffusion):
    """`projection` of the DPS code: an unguided step, then a step onto the noisy measurement.

    Source: Chung, Sim, Ryu, Ye, "Improving Diffusion Models for Inverse Problems using Manifold Constraints", NeurIPS
    2022, and Choi et al. (ILVR), ICCV 2021: x <- x + A^T (y_sigma - A x) / ||A||^2 with y_sigma = y + sigma A n, the
    measurement of an image with the level's noise. Where A A^T is a multiple of the identity on what is measured
    (inpainting, averaging) that is the projection; for other operators one gradient step of it.

    Departs from the published code: true adjoints; its inpainting step evaluates to (I - A) y - A x, which is no
    projection; the noise is carried by A and has the level of the state it meets (the code diffuses y itself, at the
    level before the step).

    Args:
        schedule: noise levels.
        step: the unguided step.
        clip_denoised: clip D to [-1, 1] in every step.

    Raises:
        UserError: on a call, before any evaluation of the prior, if the operator is not linear.
    """

    projects = True

    schedule: SigmaSchedule = field(default_factory=RespacedSigmas)
    step: ReverseStep = field(default_factory=Ancestral)
    clip_denoised: bool = True

    @torch.no_grad()
    def advance(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> Tensor:
        denoised, fraction = prior.predict(x, sigma)
        if self.clip_denoised:
            denoised = clipped(denoised)
        return self.step(x, denoised, fraction, sigma, sigma_next, partial(rng.randn_like, "projection", x))


@dataclass(frozen=True)
class MCG(DPS):
    """`mcg` of the DPS code: a step of `DPS`, then one of `Projection`; see both.

    Source: Chung, Sim, Ryu, Ye, NeurIPS 2022, Algorithm 1. The measurement is met to the letter, its noise included.

    Raises:
        UserError: on a call, before any evaluation of the prior, if the operator is not linear.
    """

    projects = True
