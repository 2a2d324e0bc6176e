"""Noise laws: how a clean observation A x becomes a measurement y."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import real
from posterior.errors import UserError

if TYPE_CHECKING:
    from posterior.operators.base import Operator

OVERSHOOT = 0.5
"""How far A x of an image in [-1, 1] may leave that range where A keeps the scale: bicubic resizing does by 0.41 at
most (at scale 2; 0.37 at 4), the sum of the sizes of its weights less 1."""


class Likelihood(ABC):
    """The law of y given the clean observation A x, or the Gaussian that stands for it."""

    sigma_y: float
    """Standard deviation of the noise, in units of the measurement (the papers' eta); a typical one if it varies."""
    most: ClassVar[float | None] = None
    """Largest size of A x for which this is a law; None: any."""
    discrete: ClassVar[bool] = False
    """Whether y takes few values, counts or signs, so that it may be without noise."""
    informative_residual: ClassVar[bool] = True
    """Whether ||y - A x|| says how well x fits."""

    @abstractmethod
    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y for a clean observation and standard normal numbers, both (B, *S)."""

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | clean) of each entry, (B, *S), in the wider of their dtypes.

        Raises:
            UserError: if the law does not state it.
        """
        raise UserError(f"{type(self).__name__} does not state log p(y | A x), so nothing can be weighed by it")

    def energy(self, y: Tensor, clean: Tensor) -> Tensor:
        """-log of the law whose gradient is `score`, up to what y alone decides, (B, *S): where it falls, chains go.

        Raises:
            UserError: if the law does not state it.
        """
        return -self.log_prob(y, clean)

    @abstractmethod
    def variance(self, y: Tensor) -> Tensor | float:
        """Variance of the noise in each entry at the level of y (or of A x), (B, *S) or one number."""

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """Gradient of log p(y | clean) with respect to ``clean``, (B, *S), for Gaussian noise of that variance."""
        return (y - clean) / self.variance(y)

    @abstractmethod
    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """DPS's data misfit, one number per row, (B,)."""

    @abstractmethod
    def annealed(self, added_variance: float, y: Tensor) -> Likelihood:
        """The law after more Gaussian noise of this variance was added to y (B, *S)."""

    def check(self, values: Tensor, source: str) -> None:
        """Refuse clean observations or measurements for which the law is none.

        Args:
            values: (B, *S).
            source: what gave them, for the message.

        Raises:
            UserError: naming the law and the source, if a value is larger than `most`.
        """
        if self.most is None:
            return
        low, high = waits.fetch("range of the measurement", torch.stack(values.aminmax()))
        if max(-low, high) > self.most:
            raise UserError(
                f"{type(self).__name__}: {source} has values from {low:.4g} to {high:.4g}, the law is one for [-1, 1]: "
                "use GaussianNoise, or an operator that keeps the scale of images"
            )

    def along(self, operator: Operator) -> Likelihood:
        """The law for what an operator observes: itself, unless it depends on more of A than A x.

        Raises:
            UserError: naming the law, if it is none for such an operator.
        """
        return self

    def rows(self, index: Tensor) -> Likelihood:
        """The law of the images ``index``."""
        return self

    def to(self, device: torch.device | str) -> Likelihood:
        """The law on another device."""
        return self


@dataclass(frozen=True)
class GaussianNoise(Likelihood):
    """y = A x + sigma_y N(0, I).

    Args:
        sigma_y: noise level > 0 on the scale of the images, [-1, 1] (the papers' eta; the field uses 0.05).

    Raises:
        UserError: if sigma_y <= 0.
    """

    sigma_y: float = 0.05

    def __post_init__(self) -> None:
        real("GaussianNoise", "sigma_y", self.sigma_y, above=0)

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.sigma_y * noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return -0.5 * ((y - clean) / self.sigma_y) ** 2 - math.log(self.sigma_y * (2 * math.pi) ** 0.5)

    def variance(self, y: Tensor) -> float:
        return self.sigma_y**2

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """||y - A x||."""
        return torch.linalg.vector_norm((y - clean).flatten(1), dim=1)

    def annealed(self, added_variance: float, y: Tensor) -> GaussianNoise:
        return GaussianNoise((self.sigma_y**2 + added_variance) ** 0.5)


def counted(mean: Tensor, noise: Tensor) -> Tensor:
    """Photons for mean counts and standard normal numbers, both (B, *S) on the CPU: quantiles, float64."""
    level = scipy.stats.norm.cdf(noise.double().numpy())
    return torch.from_numpy(np.asarray(scipy.stats.poisson.ppf(level, mean.double().numpy())))


@dataclass(frozen=True)
class PoissonNoise(Likelihood):
    """Photon noise: k ~ Poisson(R u), u = clip((A x + 1) / 2, 0, 1), y = clip(2 k / R - 1, -1, 1), R = 255 rate.

    The law of the DPS code. The last clip biases bright pixels downwards. A x must lie in [-1, 1], give or take 0.5:
    what bicubic super-resolution overshoots (at most 0.41, where edges are as sharp as can be) is clipped, as in the
    DPS code; amplitudes of phase retrieval or k-space, which reach tens, would be cut off, and are refused.

    For Langevin it is replaced by a Gaussian: the variance of y, 4 u / R, is read off y itself, as
    max(2 (y + 1) / R, 4 / R^2) (at least that of one photon). Approximate: the variance does not follow x, and both
    clips are ignored. Its target is not exactly p(x | y); the error grows as the rate falls. The darkest pixels are
    stiff: their curvature is up to ||A||^2 R^2 / 4 (16256 ||A||^2 at rate 1), which bounds Langevin's step size.

    Args:
        rate: > 0; brightest pixels count 255 rate photons on average. Lower is noisier.

    Raises:
        UserError: if rate <= 0.
    """

    rate: float = 1.0
    most = 1 + OVERSHOOT
    discrete = True

    def __post_init__(self) -> None:
        real("PoissonNoise", "rate", self.rate, above=0)

    @property
    def photons(self) -> float:
        """R, the mean count at A x = 1."""
        return 255 * self.rate

    @property
    def sigma_y(self) -> float:  # type: ignore[override]
        """Standard deviation at A x = 0, middle grey."""
        return (2 / self.photons) ** 0.5

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Counts are quantiles: the normal numbers decide where in its distribution a count lies."""
        counts = waits.on_host("photon counts", self._counts, clean, noise)
        return self.measured(waits.to_device("photon counts", counts, clean))

    def _counts(self, clean: Tensor, noise: Tensor) -> Tensor:
        return counted(self.photons * ((clean.double() + 1) / 2).clamp(0, 1), noise)

    def measured(self, counts: Tensor) -> Tensor:
        """y for photon counts (B, *S)."""
        return (2 * counts / self.photons - 1).clamp(-1, 1)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Of the counts themselves, both clips included: at y = 1 that of R photons or more.

        What is less likely than the smallest float64 is impossible here: -infinity.
        """
        mean = self.photons * ((clean.double() + 1) / 2).clamp(0, 1)
        counts = ((y.double() + 1) * self.photons / 2).round()
        exactly = torch.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)
        beyond = torch.special.gammainc(torch.full_like(mean, math.ceil(self.photons)), mean).log()
        return torch.where(y >= 1, beyond, exactly)

    def energy(self, y: Tensor, clean: Tensor) -> Tensor:
        """That of the Gaussian: of counts that cannot be, log p says nothing of where to go."""
        return 0.5 * (y - clean) ** 2 / self.variance(y)

    def variance(self, y: Tensor) -> Tensor:
        return (2 * (y + 1) / self.photons).clamp_min(4 / self.photons**2)

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """DPS's weighting: the mean over entries of ||y - A x|| / |y|; entries with y = 0 (masked) do not count."""
        norm = torch.linalg.vector_norm((y - clean).flatten(1), dim=1)
        level = y.flatten(1).abs()
        weights = torch.where(level > 0, 1 / level, 0)
        return norm * weights.sum(dim=1) / (level > 0).sum(dim=1).clamp_min(1)

    def annealed(self, added_variance: float, y: Tensor) -> VaryingNoise:
        return VaryingNoise(self.variance(y) + added_variance)


@dataclass(frozen=True)
class VaryingNoise(Likelihood):
    """Gaussian noise with a variance of its own in every entry: what annealing makes of photon noise.

    Args:
        variances: (B, *S), > 0.
    """

    variances: Tensor

    @property
    def sigma_y(self) -> float:  # type: ignore[override]
        return waits.fetch("noise level", self.variances.mean()) ** 0.5

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.variances**0.5 * noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return -0.5 * ((y - clean) ** 2 / self.variances + (2 * math.pi * self.variances).log())

    def variance(self, y: Tensor) -> Tensor:
        return self.variances

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        deviation = ((y - clean) / self.variances**0.5).flatten(1)
        return torch.linalg.vector_norm(deviation, dim=1) * self.variances.mean() ** 0.5  # no wait for the level

    def annealed(self, added_variance: float, y: Tensor) -> VaryingNoise:
        return VaryingNoise(self.variances + added_variance)

    def rows(self, index: Tensor) -> VaryingNoise:
        return VaryingNoise(self.variances[index])

    def to(self, device: torch.device | str) -> VaryingNoise:
        return VaryingNoise(self.variances.to(device))
