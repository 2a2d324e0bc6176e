"""Filtering posterior sampling: particles that follow a diffused measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import real
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, unobserved
from posterior.samplers.particles import ParticleSampler, denoise, multinomial, select, spectrum_of_particles
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within
from posterior.samplers.spectrum import Spectrum


@dataclass(frozen=True)
class FPSSMC(ParticleSampler):
    """FPS-SMC: y is diffused as images are, and particles follow it down as a filter follows what it hears.

    Source: Dou and Song, "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective",
    ICLR 2024, in sigma units and in the coordinates of A = U diag(s) V^T, xbar = V^T x, ybar = U^T y / s. First a path
    y(sigma) down the levels is drawn, from sqrt(1 + sigma^2) n at the first one. With sigma' the next level,

        y(sigma') = ybar + sqrt(1 - eta^2) sigma' / sigma (y(sigma) - ybar) + eta sigma' n

    Then each y(sigma') is taken for xbar' + sigma_y / s n, an observation of a chain of states. A particle moves by
    p(x' | x, y(sigma')), which is in proportion to

        N(xbar'; m, eta^2 sigma'^2) N(y(sigma'); xbar', sigma_y^2 / s^2)
        m = t + sqrt(1 - eta^2) sigma' / sigma (xbar - t),  t = V^T D(x, sigma)

    and is resampled by p(y(sigma') | x) = N(y(sigma'); m, eta^2 sigma'^2 + sigma_y^2 / s^2).

    With many particles this is the exact filter of the path. It is no sampler of p(x | y): the levels share the one
    noise of y, which the filter takes for new at each, so that more levels make samples narrower. On a Gaussian in
    three dimensions (tests/samplers/test_fps_smc.py) it has standard deviations 0.17 and 0.33 by 20 levels, 0.08 and
    0.18 by 1000, and the posterior has 0.28 and 0.61.

    The authors' code computes the weight from the x' that was drawn, which gives the same; it starts the particles one
    level late, so that y(sigma) meets x', with the noise of either level in places; and for inpainting it raises
    weights to the number of particles. InverseBench lets y(sigma) meet x' too, adds scaled to unscaled states in m, and
    leaves sigma_y undivided by s.

    Args:
        schedule: noise levels (published: 1000).
        num_particles: of a row, >= 1 (published: 5).
        eta: in (0, 1], eta^2 is the paper's c, the share of fresh noise (published: 0.95 ** 0.5).

    Raises:
        UserError: if a number is out of range; on a call, before any network call, as `spectrum` does, if the particles
            do not fit memory, or if a level is outside the prior's range.
    """

    schedule: SigmaSchedule = field(default_factory=RespacedSigmas)
    num_particles: int = 5
    eta: float = 0.974679

    def __post_init__(self) -> None:
        super().__post_init__()
        real("FPSSMC", "eta", self.eta, above=0, most=1)

    @torch.no_grad()
    def particles(
        self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved
    ) -> tuple[Tensor, Tensor]:
        self.check_memory(measurement)
        known = spectrum_of_particles(measurement, "FPSSMC", self.num_particles)
        sigmas = levels_within(self.schedule, prior)
        path = self.path(known, sigmas, rng)
        free = initial_noise((self.num_particles, *measurement.image_shape), sigmas[0], rng)
        xbar = next(path).where(known.observed, free)
        x, log_weights = known.synthesise(xbar), xbar.new_zeros(xbar.shape[:2])
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            if index > 1:
                ancestors = self.ancestors(log_weights, rng)
                xbar, x = select(xbar, ancestors), select(x, ancestors)
            denoised = known.analyse(denoise(prior, x, sigma))
            mean = self.predict(xbar, denoised, sigma, sigma_next)
            noise = rng.randn_like("fps", xbar) if sigma_next > 0 else torch.zeros_like(xbar)
            xbar, log_weights = self.filter(known, mean, next(path), sigma_next, noise)
            x = known.synthesise(xbar)
            observe("FPS-SMC", index, len(sigmas) - 1, x[:, 0])
        return x, log_weights

    def path(self, known: Spectrum, sigmas: list[float], rng: Streams) -> Iterator[Tensor]:
        """ybar at every level, one after the other, (R, 1, C, H, W), of no meaning where it is not observed."""
        ybar = (1 + sigmas[0] ** 2) ** 0.5 * rng.randn_like("path", known.ybar)
        yield ybar
        for sigma, sigma_next in pairwise(sigmas):
            noise = rng.randn_like("path", known.ybar) if sigma_next > 0 else torch.zeros_like(known.ybar)
            ybar = self.predict(ybar, known.ybar, sigma, sigma_next) + self.eta * sigma_next * noise
            yield ybar

    def predict(self, xbar: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """m, shaped as xbar."""
        return denoised + (1 - self.eta**2) ** 0.5 * sigma_next / sigma * (xbar - denoised)

    def filter(
        self, known: Spectrum, mean: Tensor, ybar: Tensor, sigma_next: float, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x' (R, P, C, H, W), and log p(ybar' | x), up to a number, (R, P)."""
        variance = (self.eta * sigma_next) ** 2
        told = known.sigma_y**2 + known.s**2 * variance
        precision, share = known.s**2 / told, known.sigma_y**2 / told  # of ybar' given x; 1 - variance * precision
        moved = mean + (1 - share) * (ybar - mean) + (variance * share) ** 0.5 * noise
        return moved, -(precision * (ybar - mean) ** 2).flatten(2).sum(dim=2) / 2

    def ancestors(self, log_weights: Tensor, rng: Streams) -> Tensor:
        """Who is followed, (R, P)."""
        return multinomial(log_weights, rng.rand_like("resampling", log_weights))
