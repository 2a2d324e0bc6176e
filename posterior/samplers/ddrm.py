"""Denoising diffusion restoration: reverse diffusion, coordinate by coordinate of the operator's singular vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import real
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within
from posterior.samplers.spectrum import Spectrum, spectrum


@dataclass(frozen=True)
class DDRM(Sampler):
    """DDRM: each coordinate of V^T x is denoised, or replaced by what y says of it, as their noise levels compare.

    Source: Kawar, Elad, Ermon, Song, "Denoising Diffusion Restoration Models", NeurIPS 2022, arXiv:2201.11793,
    equations (7) and (8). With A = U diag(s) V^T, xbar = V^T x, t = V^T D(x, sigma) and ybar = U^T y / s, the next
    state has noise sigma' in every coordinate: it is normal with

        s = 0:               mean t + sqrt(1 - eta^2) sigma' (xbar - t) / sigma, std eta sigma'
        s sigma' < sigma_y:  mean t + sqrt(1 - eta^2) sigma' s (ybar - t) / sigma_y, std eta sigma'
        otherwise:           mean (1 - eta_b) t + eta_b ybar, variance sigma'^2 - eta_b^2 sigma_y^2 / s^2

    D stands for x0, so that it is an approximation: what y says of one coordinate reaches the others only as D sees it
    in x. The paper starts where s sigma > sigma_y; as in the authors' code, other coordinates start as unobserved ones.
    Their code starts at V^T x / sigma in place of V^T x / sqrt(1 + sigma^2) (in variance-preserving units), and tells
    it twice the sigma_y of images in [0, 1]: that of [-1, 1]. InverseBench has variance sigma'^2 - sigma_y^2 / s^2 for
    every eta_b, starts at the root of a negative number where s sigma < sigma_y, and ends above level 0.

    Args:
        schedule: noise levels (published: 20 of 1000, each 50th).
        eta: in [0, 1], the share of fresh noise where y says less than x (published: 0.85).
        eta_b: in [0, 1], the weight of y where it says more (published: 1).

    Raises:
        UserError: if a number is out of range; on a call, before any network call, as `spectrum` does, or if a level is
            outside the prior's range.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas("ddim20"))
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        real("DDRM", "eta", self.eta, least=0, most=1)
        real("DDRM", "eta_b", self.eta_b, least=0, most=1)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        known, sigmas = spectrum(measurement, "DDRM"), levels_within(self.schedule, prior)
        xbar = self.start(known, sigmas[0], rng)
        for index, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
            denoised = known.analyse(prior.denoise(known.synthesise(xbar), sigma))
            noise = rng.randn_like("ddrm", xbar) if sigma_next > 0 else torch.zeros_like(xbar)
            cases = self.moments(known, xbar, denoised, sigma, sigma_next)
            unseen, faint, clear = (mean + std * noise for mean, std in cases)
            xbar = torch.where(known.observed, clear.where(known.noise <= sigma_next, faint), unseen)
            observe("DDRM", index, len(sigmas) - 1, known.synthesise(xbar))
        return check_finite(known.synthesise(xbar), rng, "DDRM")

    def start(self, known: Spectrum, sigma: float, rng: Streams) -> Tensor:
        """xbar at the first level, equation (7), (R, C, H, W)."""
        told = known.noise < sigma
        std = (sigma**2 - known.noise.where(told, 0) ** 2) ** 0.5
        return known.ybar.where(told, 0) + std * rng.randn_like("initial", known.ybar)

    def moments(
        self, known: Spectrum, xbar: Tensor, denoised: Tensor, sigma: float, sigma_next: float
    ) -> tuple[tuple[Tensor, Tensor | float], ...]:
        """Mean and standard deviation of xbar at sigma_next by the three cases of equation (8), in their order.

        Each is for all coordinates (R, C, H, W); where it does not apply it is of no use.
        """
        kept, fresh = (1 - self.eta**2) ** 0.5 * sigma_next, self.eta * sigma_next
        unseen = denoised + kept / sigma * (xbar - denoised)
        faint = denoised + kept / known.noise * (known.ybar - denoised)
        clear = (1 - self.eta_b) * denoised + self.eta_b * known.ybar
        return (unseen, fresh), (faint, fresh), (clear, self.left(known, sigma_next))

    def left(self, known: Spectrum, sigma_next: float) -> Tensor:
        """Standard deviation of the noise that is added to eta_b ybar, (R, C, H, W)."""
        return (sigma_next**2 - (self.eta_b * known.noise.where(known.observed, 0)) ** 2).clamp_min(0) ** 0.5
