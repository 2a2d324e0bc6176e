"""Decoupled annealing posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.likelihood_steps import LangevinSteps, LikelihoodStep, balls
from posterior.samplers.schedules import KarrasSigmas, SigmaSchedule, levels_within


@dataclass(frozen=True)
class DAPS(Sampler):
    """DAPS: at every level a whole descent to an image, a chain that brings y in, and noise of the next level.

    Source: Zhang, Chu, Berner, Meng, Anandkumar, Song, "Improving Diffusion Inverse Problem Solving with Decoupled
    Noise Annealing", CVPR 2025, arXiv:2407.01521, Algorithm 1. x0hat follows from x by the probability flow from
    sigma to 0, in Euler steps; x0 given x is taken for N(x0hat, sigma^2 I); then

        x0 ~ p(y | x0) N(x0; x0hat, sigma^2 I) by steps of a chain,  x' = x0 + sigma' n

    so that no error of one level is carried to the next. Exact where p(x0 | x) is that Gaussian.
    As in InverseBench the flow ends in D; the authors' code stops it at ``ode_bottom``. It also drops the schedule's
    last level and puts 0 there, and has the data term twice. Both go by tau = 0.01 where sigma_y is 0.05.

    Args:
        schedule: noise levels.
        ode_steps: Euler steps of the flow, and network calls, at each level (published: 5).
        ode_bottom: > 0, the lowest level of the flow but 0; from levels below it there is one step (published: 0.01,
            which is just below the lowest level of networks of 1000 steps).
        likelihood_step: what brings y in (`LangevinSteps`, `MetropolisSteps`, `HamiltonianSteps`, or where A is linear
            `ExactLikelihoodStep`).

    Raises:
        UserError: if a number is out of range; on a call, before any network call, if a level is outside the prior's
            range, or the step is not for the measurement.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: KarrasSigmas(200, 100.0, 0.1))
    ode_steps: int = 5
    ode_bottom: float = 0.0101
    likelihood_step: LikelihoodStep = field(default_factory=lambda: LangevinSteps(100, 1e-4, 0.01, tau=0.01))

    def __post_init__(self) -> None:
        whole("DAPS", "ode_steps", self.ode_steps, 1, MOST_STEPS)
        real("DAPS", "ode_bottom", self.ode_bottom, above=0)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        sigmas = levels_within(self.schedule, prior)
        prior.check_range(self.grid(sigmas[-2])[-2])
        steps = balls(sigmas[:-1])
        self.likelihood_step.check(measurement, steps)
        x = sigmas[0] * rng.randn("initial", measurement.image_shape)
        for index, (ball, sigma_next) in enumerate(zip(steps, sigmas[1:], strict=True), start=1):
            x0hat = self.flow(prior, x, self.grid(ball.radius))
            x0 = self.likelihood_step(measurement, x0hat, ball, rng)
            x = x0 + sigma_next * rng.randn_like("daps", x0) if sigma_next > 0 else x0
            observe("DAPS", index, len(steps), x)
        return check_finite(x, rng, "DAPS")

    def grid(self, sigma: float) -> list[float]:
        """Levels of the flow from sigma to 0."""
        if self.ode_steps == 1 or sigma <= self.ode_bottom:
            return [sigma, 0.0]
        return KarrasSigmas(self.ode_steps, sigma, self.ode_bottom).sigmas()

    def flow(self, prior: Prior, x: Tensor, sigmas: list[float]) -> Tensor:
        """The image to which the probability flow leads from x at the first level, (R, C, H, W)."""
        for sigma, sigma_next in pairwise(sigmas):
            x = x + (1 - sigma_next / sigma) * (prior.denoise(x, sigma) - x)
        return x
