"""A prior whose score is wrong by a stated amount."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.stats
from torch import Tensor

from posterior.checks import LARGEST, MOST_CHANNELS, MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.priors.base import Prior


class ScoreError(ABC):
    """An error field e(x) that is added to a score."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """e(x), (B, C, H, W)."""


@dataclass(frozen=True)
class ShellError(ScoreError):
    """e(x) = M u on the shell | |x|^2 / (d s) - 1 | <= rho, 0 elsewhere; u is the unit vector of equal entries.

    The error of Lemma F.2. Under N(0, I_d) its norms are known: (E |e|^k)^(1/k) = M P(shell)^(1/k), which M is chosen
    to make ``error``. A shell of tiny probability thus holds a huge error that the norm does not see.

    Args:
        dimension: d >= 1.
        radius: s > 0; samples of N(0, I) have |x|^2 / d about 1.
        width: rho in (0, 1).
        order: k > 0.
        error: the L^k norm, > 0.

    Raises:
        UserError: if a value is out of range, or the shell so improbable that no finite error has that norm.
    """

    dimension: int
    radius: float
    width: float
    order: float
    error: float

    def __post_init__(self) -> None:
        whole("ShellError", "dimension", self.dimension, 1, MOST_CHANNELS * MOST_SIDE**2)
        for name in ("radius", "order", "error"):
            real("ShellError", name, getattr(self, name), above=0)
        real("ShellError", "width", self.width, above=0, below=1)
        try:
            magnitude = self.magnitude
        except (OverflowError, ValueError):
            magnitude = math.inf
        if not magnitude <= LARGEST:
            raise UserError(f"ShellError: an error of this norm would be too large on a shell so improbable: {self}")

    @cached_property
    def log_probability(self) -> float:
        """log P(shell) under N(0, I_d)."""
        chi2, centre = scipy.stats.chi2(self.dimension), self.dimension * self.radius
        outer, inner = chi2.logcdf(centre * (1 + self.width)), chi2.logcdf(centre * (1 - self.width))
        return float(outer + math.log1p(-math.exp(inner - outer)))

    @cached_property
    def magnitude(self) -> float:
        """M."""
        return self.error * math.exp(-self.log_probability / self.order)

    def norm(self, order: float) -> float:
        """The L^k norm for any k > 0."""
        return self.magnitude * math.exp(self.log_probability / order)

    def log_mgf(self, scale: float) -> float:
        """log E exp(scale |e|^2), which the theory bounds instead of L^k norms."""
        outside = math.log1p(-math.exp(self.log_probability))
        return float(np.logaddexp(scale * self.magnitude**2 + self.log_probability, outside))

    def inside(self, x: Tensor) -> Tensor:
        """Which states are in the shell, (B,) bool."""
        level = x.flatten(1).square().sum(dim=1) / (self.dimension * self.radius)
        return (level - 1).abs() <= self.width

    def __call__(self, x: Tensor) -> Tensor:
        push = self.magnitude / self.dimension**0.5
        return push * self.inside(x).to(x).view(-1, *[1] * (x.ndim - 1)).expand_as(x)


class PerturbedPrior(Prior):
    """A prior plus an error in its score, at every noise level.

    Args:
        prior: the exact prior.
        error: what is added to its score.
    """

    def __init__(self, prior: Prior, error: ScoreError) -> None:
        super().__init__()
        self.prior, self.error = prior, error
        self.sigma_min, self.sigma_max = prior.sigma_min, prior.sigma_max
        self.channels, self.size, self.size_multiple = prior.channels, prior.size, prior.size_multiple
        self.value_range = prior.value_range

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        denoised, fraction = self.prior._predict(x, sigma)
        return denoised + sigma**2 * self.error(x), fraction

    def curvature(self, sigma: float) -> float:
        """The exact prior's: that of an error is not known."""
        return self.prior.curvature(sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The exact score plus the error; see `Prior.score`."""
        return self._counted(self.prior.score(x, sigma) + self.error(x))
