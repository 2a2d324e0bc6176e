"""azula's MMPS, PiGDM and TDS. Its images have any unit; states are x_t = alpha_t x + sigma_t n."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance.mmps import MMPSDenoiser
from azula.guidance.pgdm import PGDMSampler
from azula.guidance.tds import TDSSampler
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import VPSchedule
from azula.sample import DDPMSampler, Sampler
from torch import Tensor

from benchmarks.theirs.base import TheirSampler, denoised
from posterior.checks import whole
from posterior.priors.base import Prior
from posterior.samplers.spectrum import Spectrum

MOST_PARTICLES = 1000


class PriorDenoiser(Denoiser):
    """A prior of ours as azula asks its denoisers, on its variance-preserving schedule.

    The schedule is azula's own, from sigma_t / alpha_t = 0.001 to 1000, or less where the prior's range ends before.

    Args:
        prior: of images in [-1, 1].
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, default = prior, VPSchedule()
        lowest, highest = max(default.sigma_min, prior.sigma_min), min(1 / default.alpha_min, prior.sigma_max)
        self.schedule = VPSchedule(math.sqrt((1 + lowest**2) / (1 + highest**2)), lowest)

    def forward(self, x_t: Tensor, t: Tensor, **keywords: object) -> DiracPosterior:
        """The mean of x given x_t (B, C, H, W) at the time t, ()."""
        alpha, sigma = self.schedule(t)
        return DiracPosterior(denoised(self.prior, x_t / alpha, sigma / alpha))


class TheirAzula(TheirSampler):
    """A sampler of azula's; y = S V^T x + sigma_y n is told as vectors."""

    @abstractmethod
    def sampler(self, denoiser: PriorDenoiser, known: Spectrum) -> Sampler:
        """Theirs, with its defaults."""

    def samples(self, prior: Prior, known: Spectrum) -> Tensor:
        theirs = self.sampler(PriorDenoiser(prior), known)
        theirs.silent, theirs.device = True, known.s.device
        return theirs(theirs.init(self.states(known.s)))[: len(known.s)]

    def states(self, like: Tensor) -> Sequence[int]:
        """Shape of their states for rows (R, C, H, W)."""
        return like.shape


@dataclass(frozen=True)
class AzulaMMPS(TheirAzula):
    """azula's MMPS, one step of GMRES a level, by its DDPM sampler of 64 steps."""

    def sampler(self, denoiser: PriorDenoiser, known: Spectrum) -> Sampler:
        y, noise = told(known, known.ybar), IsotropicCovariance(known.sigma_y**2)
        return DDPMSampler(MMPSDenoiser(denoiser, y, lambda x: told(known, known.analyse(x)), noise))


@dataclass(frozen=True)
class AzulaPiGDM(TheirAzula):
    """azula's PiGDM: 64 steps of DDIM with eta 0. It has the form without noise alone: sigma_y has no part in it.

    A^+ y stands for the truth there, so that it is not for operators with gains far below the noise: a blur's of 2e-4
    make 31 of noise of 0.05.
    """

    def sampler(self, denoiser: PriorDenoiser, known: Spectrum) -> Sampler:
        y, gains = told(known, known.ybar), known.s[:1].where(known.observed[:1], torch.inf)

        def inverse(y: Tensor) -> Tensor:
            return known.synthesise(y.view(-1, *known.s.shape[1:]) / gains)

        return PGDMSampler(denoiser, y, lambda x: told(known, known.analyse(x)), inverse)


@dataclass(frozen=True)
class AzulaTDS(TheirAzula):
    """azula's TDS, 64 steps; a sample is one particle of those of its own call, which no likelihood weighs in the end.

    The twist is its user's to give: N(y; A D, q^2 A A^T + sigma_y^2 I), q^2 = sigma^2 / (1 + sigma^2), the paper's for
    images of variance 1, with noise. So is the number of particles.

    Args:
        num_particles: of a sample, >= 1 (4, as the paper's authors have it for images).

    Raises:
        UserError: if the number is out of range.
    """

    together: ClassVar[bool] = False

    num_particles: int = 4

    def __post_init__(self) -> None:
        whole("AzulaTDS", "num_particles", self.num_particles, 1, MOST_PARTICLES)

    def states(self, like: Tensor) -> Sequence[int]:
        return (self.num_particles, *like.shape[1:])

    def sampler(self, denoiser: PriorDenoiser, known: Spectrum) -> Sampler:
        def twist(x: Tensor, sigma: Tensor) -> Tensor:
            variance = known.s**2 * sigma**2 / (1 + sigma**2) + known.sigma_y**2
            return -((known.s * (known.ybar - known.analyse(x))) ** 2 / variance).flatten(1).sum(dim=1) / 2

        return TDSSampler(denoiser, twist)


def told(known: Spectrum, coordinates: Tensor) -> Tensor:
    """S xbar of coordinates xbar (B, C, H, W), as vectors (B, C H W)."""
    return (known.s[:1] * coordinates).flatten(1)
