"""The denoising diffusion null-space model for noisy measurements, with time travel."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule, levels_within
from posterior.samplers.spectrum import Spectrum, spectrum


@dataclass(frozen=True)
class DDNMPlus(Sampler):
    """DDNM+: D is moved to y in the range of A, as far as y's noise fits into the next level's; then re-noised.

    Source: Wang, Yu, Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR 2023,
    arXiv:2212.00490, Algorithm 2, in sigma units. With A = U diag(s) V^T, xbar = V^T x, t = V^T D(x, sigma),
    ybar = U^T y / s, eps = (xbar - t) / sigma, and sigma' the next level:

        xbar' = t - lambda (t - ybar) + fresh n + kept eps
        s = 0:               lambda 0, fresh eta sigma', kept sqrt(1 - eta^2) sigma'
        s sigma' < sigma_y:  lambda sqrt(1 - eta^2) s sigma' / sigma_y, fresh eta sigma', kept 0
        otherwise:           lambda 1, fresh sqrt(sigma'^2 - sigma_y^2 / s^2), kept 0

    These weights are those of the authors' code; the paper's equation (19) has one lambda for all of an operator whose
    s are 1. From the same start the steps are those of `DDRM` with eta_b = 1: what is DDNM+'s own is time travel. A
    travel goes back to a level further up, x + sqrt(sigma_up^2 - sigma^2) n, and comes down again.

    The authors' code re-noises D in place of x on a travel. Of super-resolution and colorization it multiplies n and
    eps by V diag(.) without V^T first: n has the right law all the same, eps points elsewhere. It tells it twice the
    sigma_y of images in [0, 1]: that of [-1, 1]. InverseBench has the paper's one lambda, min(1, sigma' / sigma_y),
    adds noise of a variance that does not sum to sigma'^2 unless eta = 1, travels from every level, and ends above
    level 0.

    Args:
        schedule: noise levels (published: 100).
        eta: in [0, 1], the share of fresh noise (published: 0.85).
        travel_length: levels that a travel goes back, and from each how many on the next one starts, >= 1.
        travel_repeat: how often each stretch is passed, >= 1; 1 is no travel (published: 1). Network calls are about
            so many times the levels.

    Raises:
        UserError: if a number is out of range; on a call, before any network call, as `spectrum` does, or if a level is
            outside the prior's range.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas("ddim100"))
    eta: float = 0.85
    travel_length: int = 1
    travel_repeat: int = 1

    def __post_init__(self) -> None:
        real("DDNMPlus", "eta", self.eta, least=0, most=1)
        whole("DDNMPlus", "travel_length", self.travel_length, 1, MOST_STEPS)
        whole("DDNMPlus", "travel_repeat", self.travel_repeat, 1, MOST_STEPS)
        passed = self.travel_repeat * (len(self.schedule.sigmas()) - 1)  # 0: refused on a call, as elsewhere
        whole("DDNMPlus", "travel_repeat times the number of levels", passed, 0, MOST_STEPS)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        known, sigmas = spectrum(measurement, "DDNMPlus"), levels_within(self.schedule, prior)
        xbar = denoised = initial_noise(measurement.image_shape, sigmas[0], rng).to(known.ybar)
        path = self.path(len(sigmas) - 1)
        for index, (start, end) in enumerate(path, start=1):
            sigma, sigma_next = sigmas[start], sigmas[end]
            if end < start:
                xbar = self.travel(xbar, denoised, sigma, sigma_next, rng.randn_like("travel", xbar))
            else:
                denoised = known.analyse(prior.denoise(known.synthesise(xbar), sigma))
                noise = rng.randn_like("ddnm", xbar) if sigma_next > 0 else torch.zeros_like(xbar)
                xbar = self.step(known, xbar, denoised, sigma, sigma_next, noise)
            observe("DDNM+", index, len(path), known.synthesise(xbar))
        return check_finite(known.synthesise(xbar), rng, "DDNM+")

    def path(self, num_levels: int) -> list[tuple[int, int]]:
        """The numbers of the levels between which the state goes, from 0, the highest, to ``num_levels``."""
        length, at, found = self.travel_length, 0, []
        travels = {n: self.travel_repeat - 1 for n in range(length, num_levels) if (num_levels - 1 - n) % length == 0}
        while at < num_levels:
            found.append((at, at + 1))
            at += 1
            if travels.get(at, 0) > 0:
                travels[at] -= 1
                found.append((at, at - length))
                at -= length
        return found

    def travel(self, xbar: Tensor, denoised: Tensor, sigma: float, sigma_up: float, noise: Tensor) -> Tensor:
        """xbar at sigma_up > sigma, (R, C, H, W)."""
        return xbar + (sigma_up**2 - sigma**2) ** 0.5 * noise

    def step(
        self, known: Spectrum, xbar: Tensor, denoised: Tensor, sigma: float, sigma_next: float, noise: Tensor
    ) -> Tensor:
        """xbar at sigma_next < sigma, (R, C, H, W)."""
        weight, fresh, kept = self.weights(known, sigma_next)
        corrected = self.corrected(known, denoised, weight)
        return corrected + self.noise(known, fresh, kept, noise, (xbar - denoised) / sigma)

    def weights(self, known: Spectrum, sigma_next: float) -> tuple[Tensor, Tensor, Tensor]:
        """lambda, fresh and kept of every coordinate, (R, C, H, W) each."""
        clear, share = known.noise <= sigma_next, (1 - self.eta**2) ** 0.5 * sigma_next
        left = (sigma_next**2 - known.noise**2).clamp_min(0) ** 0.5
        weight = torch.where(clear, 1.0, share / known.noise)
        return weight, left.where(clear, self.eta * sigma_next), torch.full_like(left, share).where(~known.observed, 0)

    def corrected(self, known: Spectrum, denoised: Tensor, weight: Tensor | float) -> Tensor:
        """V^T (D - V lambda V^T A^+ (A D - y)), (R, C, H, W)."""
        return denoised - weight * (denoised - known.ybar).where(known.observed, 0)

    def noise(self, known: Spectrum, fresh: Tensor, kept: Tensor, noise: Tensor, eps: Tensor) -> Tensor:
        """What is added to D, (R, C, H, W)."""
        return fresh * noise + kept * eps
