"""Regularisation by denoising diffusion: an optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from posterior.checks import real
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within

FIRST, SECOND, TINY = 0.9, 0.99, 1e-8
"""Adam's: what a step keeps of the moments, and what is added to the root of the second (the authors' code)."""


@dataclass(frozen=True)
class REDDiff(Sampler):
    """RED-diff: an optimiser, no sampler. It finds an image near a mode; its samples differ by the noise of the search.

    Source: Mardani, Song, Kautz, Vahdat, "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
    ICLR 2024, arXiv:2305.04391, Algorithm 1, in sigma units. N(mu, 0) stands for p(x | y), and mu follows by Adam, a
    step at each level from the highest to the lowest, from the gradient

        2 A^T (A mu - y) + lam sigma^power ((x - D(x, sigma)) / sigma - n),  x = mu + sigma n

    with A^T the transposed Jacobian where A is not linear. sigma_y has no part in it.
    The authors' code has means where the paper has sums, over the n pixels and (halved) over the m entries of y: its
    lam is n / (2 m) times the one of the paper (`of_means`). It begins at A^+ y instead of 0. InverseBench calls the
    network with x / sqrt(1 + sigma^2) in place of x.

    Args:
        schedule: noise levels (published: 1000, or 100 of them).
        lam: lambda > 0, the weight of the prior (published: 0.25, by the code's means).
        power: of sigma in the weight, in [0, 2]: the paper's linear (1), square root (0.5) or constant (0) weighting.
        step_size: Adam's, > 0 (published: 0.1, by its scripts also 0.25 and 0.5).
        of_means: lam is that of the authors' code; the paper's follows from what of an image is measured.

    Raises:
        UserError: if a number is out of range; on a call, before any network call, if a level is outside the prior's
            range, or ||y - A x|| says nothing (signs, closures).
    """

    schedule: SigmaSchedule = field(default_factory=RespacedSigmas)
    lam: float = 0.25
    power: float = 1.0
    step_size: float = 0.1
    of_means: bool = False

    def __post_init__(self) -> None:
        real("REDDiff", "lam", self.lam, above=0)
        real("REDDiff", "power", self.power, least=0, most=2)
        real("REDDiff", "step_size", self.step_size, above=0)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        if not measurement.likelihood.informative_residual:
            law = type(measurement.likelihood).__name__
            raise UserError(f"REDDiff goes by ||y - A x||, which says nothing of {law}")
        *sigmas, _ = levels_within(self.schedule, prior)
        mu = self.start(measurement)
        first = second = torch.zeros_like(mu)
        for step, sigma in enumerate(sigmas, start=1):
            gradient = self.gradient(prior, measurement, mu, sigma, rng)
            first = FIRST * first + (1 - FIRST) * gradient
            second = SECOND * second + (1 - SECOND) * gradient**2
            root = (second / (1 - SECOND**step)) ** 0.5 + TINY
            mu = mu - self.step_size * first / (1 - FIRST**step) / root
            observe("RED-diff", step, len(sigmas), mu)
        return check_finite(mu, rng, "RED-diff")

    def start(self, measurement: Measurement) -> Tensor:
        """mu before the first step, (R, C, H, W)."""
        return measurement.y.new_zeros(len(measurement.y), *measurement.image_shape)

    def gradient(self, prior: Prior, measurement: Measurement, mu: Tensor, sigma: float, rng: Streams) -> Tensor:
        """One draw of the objective's gradient at mu, (R, C, H, W)."""
        noise = rng.randn_like("red-diff", mu)
        excess = self.predicted(prior, mu + sigma * noise, sigma) - noise
        return 2 * self.pull(measurement, mu) + self.weight(measurement, sigma) * excess

    def pull(self, measurement: Measurement, mu: Tensor) -> Tensor:
        """Half the gradient of ||y - A mu||^2, (R, C, H, W)."""
        return measurement.operator.vjp(mu, measurement.observed(mu) - measurement.y)

    def predicted(self, prior: Prior, x: Tensor, sigma: float) -> Tensor:
        """The noise that the prior sees in x, (R, C, H, W)."""
        return (x - prior.denoise(x, sigma)) / sigma

    def weight(self, measurement: Measurement, sigma: float) -> float | Tensor:
        """What the prior's part counts at a level: a number, or one a row."""
        weight = self.lam * sigma**self.power
        if not self.of_means:
            return weight
        seen = measurement.operator.num_measured() / math.prod(measurement.image_shape)  # m / n: (), or (R,)
        return 2 * weight * seen.to(measurement.y).view(-1, 1, 1, 1)
