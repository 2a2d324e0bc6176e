"""The twisted diffusion sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import real
from posterior.measurement import Measurement
from posterior.operators.base import inner
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, clipped, unobserved
from posterior.samplers.particles import ParticleSampler, blocks, select, systematic
from posterior.samplers.reverse_diffusion import Ancestral, initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within


@dataclass(frozen=True)
class TDS(ParticleSampler):
    """TDS: ancestral steps that are pulled towards y, as proposals; weights undo what is wrong in the pull.

    Source: Wu, Trippe, Naesseth, Blei, Cunningham, "Practical and Asymptotically Exact Conditional Sampling in
    Diffusion Models", NeurIPS 2023, arXiv:2306.17775, Algorithm 1. The twist p~(y | x) stands for p(y | x) on the way:

        p~(y | x) = N(y; A D(x, sigma), q^2 A A^T + sigma_y^2 I),  q^2 = sigma^2 tau^2 / (sigma^2 + tau^2)

    A particle moves by p~(x' | x, y), the ancestral step with D + sigma^2 grad log p~(y | x) for D. Its weight is
    p~(y | x') p(x' | x) / (p~(y | x) p~(x' | x, y)); by these, particles are resampled before every step. The last step
    is the prior's own, to x0 = D, weighed by the likelihood. With many particles the samples are those of the prior's
    ancestral descent given y, whatever the twist.

    The paper's images are measured without noise (q^2 alone, and the last step takes over y); a learned variance, that
    of the prior's own step, is not used here. azula's sampler ends in particles that are not weighed by the likelihood.

    Args:
        schedule: noise levels (the authors: 100).
        num_particles: of a row, >= 1 (the authors' configuration: 4).
        signal_std: tau > 0, standard deviation of an image's numbers (the authors, for digits: 0.12 ** 0.5).
        clip_denoised: clip the D of a proposal to [-1, 1] (the authors do).

    Raises:
        UserError: if a number is out of range; on a call, before any evaluation of the prior, if the operator is not
            linear, the noise not Gaussian, or the particles do not fit memory.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(100))
    num_particles: int = 4
    signal_std: float = 0.35
    clip_denoised: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        real("TDS", "signal_std", self.signal_std, above=0)

    @torch.no_grad()
    def particles(
        self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved
    ) -> tuple[Tensor, Tensor]:
        measurement.linear_operator("TDS")
        measurement.gaussian_sigma("TDS")
        self.check_memory(measurement)
        rows, sigmas = len(measurement.y), levels_within(self.schedule, prior)
        x = initial_noise((self.num_particles, *measurement.image_shape), sigmas[0], rng)
        each = torch.arange(rows, device=x.device)[:, None]
        of = {size: measurement.rows(each.repeat(1, size).flatten()) for size in {part.shape[1] for part in blocks(x)}}
        log_ratios = x.new_zeros(x.shape[:2])  # of weights, but for p~(y | x')
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            seen = [self.look(prior, of[part.shape[1]], part, sigma) for part in blocks(x)]
            denoised, twisted, log_twists = (torch.cat(found, dim=1) for found in zip(*seen, strict=True))
            ancestors = systematic(log_ratios + log_twists, rng.rand_like("resampling", log_twists[:, :1]))
            x, denoised, twisted, log_twists = (select(v, ancestors) for v in (x, denoised, twisted, log_twists))
            if sigma_next > 0:
                x, log_ratios = self.propose(x, denoised, twisted, sigma, sigma_next, rng)
            else:
                told = [_log_likelihood(of[part.shape[1]], part) for part in blocks(denoised)]
                x, log_ratios = denoised, torch.cat(told, dim=1)
            log_ratios = log_ratios - log_twists
            observe("TDS", index, len(sigmas) - 1, x[:, 0])
        return x, log_ratios

    def look(self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """D and D + sigma^2 grad log p~(y | x), (R, P, C, H, W), and log p~(y | x), (R, P), up to a number a row.

        Args:
            prior: p(x).
            measurement: a row a particle, R P in all.
            x: particles at sigma, (R, P, C, H, W), or a block of them.
            sigma: their level.
        """
        with torch.enable_grad():
            flat = x.detach().flatten(0, 1).requires_grad_()
            denoised = prior.denoise(flat, sigma)
            log_twists, pull = self.twist(measurement, denoised.detach(), sigma)
            (score,) = torch.autograd.grad(denoised, flat, pull)
        denoised = denoised.detach()
        twisted = denoised + sigma**2 * score
        if self.clip_denoised:
            twisted = clipped(twisted)
        return denoised.view_as(x), twisted.view_as(x), log_twists.view(x.shape[:2])

    def twist(self, measurement: Measurement, denoised: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """log p~(y | x) up to a number, (B,), and its gradient in D, (B, C, H, W).

        For r = y - A D it is -1/2 times the least of ||r - A u||^2 / sigma_y^2 + ||u||^2 / q^2, found at the u that y
        asks of D.

        Args:
            measurement: B rows.
            denoised: D, (B, C, H, W).
            sigma: level of x.
        """
        q = (1 / sigma**2 + 1 / self.signal_std**2) ** -0.5
        u = measurement.proximal(denoised, q) - denoised
        asked = inner(u, u).flatten() / q**2
        return -asked / 2 + _log_likelihood(measurement, denoised + u), u / q**2

    def propose(
        self, x: Tensor, denoised: Tensor, twisted: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> tuple[Tensor, Tensor]:
        """x' by p~(x' | x, y), (R, P, C, H, W), and log p(x' | x) - log p~(x' | x, y), (R, P)."""
        mean, std = Ancestral().moments(x, twisted, None, sigma, sigma_next)
        noise = rng.randn_like("tds", x)
        moved = (1 - (sigma_next / sigma) ** 2) * (twisted - denoised) / std  # by the pull, in units of the noise
        return mean + std * noise, -(moved * (moved / 2 + noise)).flatten(2).sum(dim=2)


def _log_likelihood(measurement: Measurement, x: Tensor) -> Tensor:
    """log p(y | x) for Gaussian noise, up to a number, shaped as the images (..., C, H, W) are counted."""
    missing = measurement.residual_norm(x.flatten(0, -4))
    return -(missing**2).view(x.shape[:-3]) / (2 * measurement.likelihood.sigma_y**2)
