"""Monte Carlo guided diffusion: particles, guided where y is as noisy as the state."""

from __future__ import annotations

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
from posterior.samplers.reverse_diffusion import DDIM
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within
from posterior.samplers.spectrum import Spectrum


@dataclass(frozen=True)
class MCGDiff(ParticleSampler):
    """MCG-diff: DDIM steps of particles, conditioned on ybar as a state of its own noise level, and weighed by it.

    Source: Cardoso, Janati el Idrissi, Le Corff, Moulines, "Monte Carlo guided Diffusion for Bayesian linear inverse
    problems", ICLR 2024, arXiv:2308.07983, Algorithm 1 and what follows it for noisy y, in sigma units. With
    A = U diag(s) V^T, each coordinate of ybar = U^T y / s has noise of sigma_y / s, as has xbar = V^T x at the level
    tau next to it. Above, xbar is about N(ybar, v), so that the potentials and their conditioned DDIM steps N(m, std^2)
    are, from sigma to sigma' >= tau,

        v(sigma) = sigma^2 - tau^2 + kappa (1 + tau^2),  K = std^2 / (std^2 + v(sigma'))
        weight     N(m; ybar, std^2 + v(sigma')) / N(xbar; ybar, v(sigma))
        xbar'      K ybar + (1 - K) m + sqrt(K v(sigma')) n

    and a coordinate is free below its tau. Particles are resampled before every step that conditions any; in the end
    they are weighed by the likelihood over the last potential. With many particles the samples are those of the DDIM
    descent given y. With the published kappa no number is many: all particles have xbar = ybar at tau, which is as good
    as y, and the likelihood counts y once more, so that samples are too narrow (standard deviations 0.16 and 0.31 for
    0.27 and 0.51 on a Gaussian in three dimensions). With kappa 0.5 and 4000 particles they are right there
    (tests/samplers/test_mcg_diff.py); with 64 one particle has all the weight in the end, and they are far too wide.

    The authors' code starts at the prior's noise, as if it had been weighed by the first potential; the paper starts at
    that potential's posterior, and so does this. Coordinates noisier than the highest level, no state of which is like
    them, are weighed in the end alone; their code conditions the highest level by them. Where the lowest level is some
    coordinate's tau their code leaves out the likelihood in the end. InverseBench takes y for free of noise: ybar is
    the target of all coordinates, whatever their s, and all weights 60 or more above the lowest are equal.

    Args:
        schedule: noise levels (published: 100).
        num_particles: of a row, >= 1 (published: 64).
        eta: in (0, 1], the share of fresh noise of the DDIM steps (published: 1).
        kappa: in [1e-6, 1), variance of a potential at its own level, in units of 1 + tau^2 (published: 1e-4).

    Raises:
        UserError: if a number is out of range; on a call, before any network call, as `spectrum` does, if the particles
            do not fit memory, or if a level is outside the prior's range.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(100))
    num_particles: int = 64
    eta: float = 1.0
    kappa: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        real("MCGDiff", "eta", self.eta, above=0, most=1)
        real("MCGDiff", "kappa", self.kappa, least=1e-6, below=1)  # tau is float32: v > 0 at its own level

    @torch.no_grad()
    def particles(
        self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved
    ) -> tuple[Tensor, Tensor]:
        self.check_memory(measurement)
        known = spectrum_of_particles(measurement, "MCGDiff", self.num_particles)
        sigmas = levels_within(self.schedule, prior)
        tau = self.own_levels(known, sigmas)
        start = rng.randn("initial", (self.num_particles, *measurement.image_shape)).to(tau)
        xbar = self.start(known, tau, sigmas[0], start)
        x, log_weights = known.synthesise(xbar), xbar.new_zeros(xbar.shape[:2])
        each = torch.arange(self.num_particles, device=xbar.device)
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            denoised = known.analyse(denoise(prior, x, sigma))
            mean, std = self.predict(xbar, denoised, sigma, sigma_next)
            log_weights = log_weights + self.log_ratios(known, tau, xbar, mean, std, sigma, sigma_next)
            conditioned = (tau <= sigma_next).flatten(1).any(dim=1, keepdim=True)  # a row resamples on its own terms
            ancestors = torch.where(conditioned, self.ancestors(log_weights, rng), each)
            mean, log_weights = select(mean, ancestors), log_weights.where(~conditioned, 0)
            noise = rng.randn_like("mcg-diff", xbar) if sigma_next > 0 else torch.zeros_like(xbar)
            xbar = self.move(known, tau, mean, std, sigma_next, noise)
            x = known.synthesise(xbar)
            observe("MCG-diff", index, len(sigmas) - 1, x[:, 0])
        log_weights = log_weights - self.log_potential(known, tau, xbar, sigmas[-1], 0.0)
        return x, log_weights + self.log_likelihood(known, xbar)

    def own_levels(self, known: Spectrum, sigmas: list[float]) -> Tensor:
        """tau, the level next to sigma_y / s, (R, 1, C, H, W); infinite where a coordinate is not observed, or noisier
        than the highest level.

        Next in |sigma_y^2 - s^2 sigma^2| / (1 + sigma^2), as in the authors' code.
        """
        tau, best = torch.full_like(known.s, torch.inf), torch.full_like(known.s, torch.inf)
        for sigma in (level for level in sigmas if level > 0):
            gap = (known.sigma_y**2 - (known.s * sigma) ** 2).abs() / (1 + sigma**2)
            tau, best = torch.where(known.observed & (gap < best), sigma, tau), torch.minimum(gap, best)
        return tau.where(known.noise <= sigmas[0], torch.inf)

    def variance(self, tau: Tensor, sigma: float) -> Tensor:
        """v(sigma), where sigma >= tau, (R, 1, C, H, W)."""
        return sigma**2 - tau**2 + self.kappa * (1 + tau**2)

    def start(self, known: Spectrum, tau: Tensor, sigma: float, noise: Tensor) -> Tensor:
        """xbar at the first level, N(0, 1 + sigma^2) given the potential there, (R, P, C, H, W)."""
        return self.move(known, tau, torch.zeros_like(noise), (1 + sigma**2) ** 0.5, sigma, noise)

    def predict(self, xbar: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor | float]:
        """m (R, P, C, H, W) and std of the unconditioned step."""
        return DDIM(self.eta).moments(xbar, denoised, None, sigma, sigma_next)

    def log_potential(self, known: Spectrum, tau: Tensor, mean: Tensor, sigma: float, std: float | Tensor) -> Tensor:
        """log N(mean; ybar, std^2 + v(sigma)) of the coordinates that are conditioned there, up to a number, (R, P)."""
        squares = (mean - known.ybar) ** 2 / (2 * (std**2 + self.variance(tau, sigma)))
        return -squares.where(tau <= sigma, 0).flatten(2).sum(dim=2)

    def log_ratios(
        self,
        known: Spectrum,
        tau: Tensor,
        xbar: Tensor,
        mean: Tensor,
        std: Tensor | float,
        sigma: float,
        sigma_next: float,
    ) -> Tensor:
        """By what a step changes the logarithms of weights, up to a number, (R, P)."""
        after = self.log_potential(known, tau, mean, sigma_next, std)
        return after - self.log_potential(known, tau, xbar, sigma, 0.0)

    def ancestors(self, log_weights: Tensor, rng: Streams) -> Tensor:
        """Who is followed, (R, P)."""
        return multinomial(log_weights, rng.rand_like("resampling", log_weights))

    def move(
        self, known: Spectrum, tau: Tensor, mean: Tensor, std: Tensor | float, sigma_next: float, noise: Tensor
    ) -> Tensor:
        """xbar at sigma_next, (R, P, C, H, W)."""
        variance = self.variance(tau, sigma_next)
        gain = std**2 / (std**2 + variance)
        guided = gain * known.ybar + (1 - gain) * mean + (gain * variance) ** 0.5 * noise
        return guided.where(tau <= sigma_next, mean + std * noise)

    def log_likelihood(self, known: Spectrum, xbar: Tensor) -> Tensor:
        """log p(y | x), up to a number, (R, P)."""
        return -((known.s * (known.ybar - xbar)) ** 2).flatten(2).sum(dim=2) / (2 * known.sigma_y**2)
