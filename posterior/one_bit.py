"""One bit an entry: only the sign of a noisy number is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.checks import real
from posterior.noise import Likelihood


@dataclass(frozen=True)
class OneBit(Likelihood):
    """y = sign(A x + sigma_y N(0, I)), each entry 1 or -1: P(y | A x) = Phi(y A x / sigma_y).

    Its scale is that of A x, which y does not have: an image and its multiples differ by their noise alone. Under
    annealing Gaussian noise is added to the signs, and the law of the sum is known (`BlurredBits`). A residual
    ||y - A x|| says nothing here.

    Args:
        sigma_y: standard deviation of the noise before the sign, > 0.

    Raises:
        UserError: if sigma_y <= 0.
    """

    sigma_y: float = 0.05
    discrete = True
    informative_residual = False

    def __post_init__(self) -> None:
        real("OneBit", "sigma_y", self.sigma_y, above=0)

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        return torch.where(clean + self.sigma_y * noise >= 0, 1.0, -1.0).to(clean)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """In float64: in float32 its gradient is lost some hundred sigma_y from the sign that was seen."""
        return torch.special.log_ndtr((y * clean / self.sigma_y).double())

    def variance(self, y: Tensor) -> float:
        """That of the noise before the sign."""
        return self.sigma_y**2

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """y phi(u) / (sigma_y Phi(u)), u = y A x / sigma_y."""
        u = y * clean / self.sigma_y
        return y / self.sigma_y * _mills(u)

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """sigma_y (-2 log p(y | A x))^(1/2), which is ||y - A x|| where noise is Gaussian."""
        lost = -2 * self.log_prob(y, clean).flatten(1).sum(dim=1)
        return (self.sigma_y * lost.clamp_min(1e-12) ** 0.5).to(clean)

    def annealed(self, added_variance: float, y: Tensor) -> BlurredBits:
        return BlurredBits(self.sigma_y, added_variance)


@dataclass(frozen=True)
class BlurredBits(Likelihood):
    """The law of signs with Gaussian noise added: Phi(u) N(y; 1, v) + Phi(-u) N(y; -1, v), u = A x / sigma.

    Args:
        sigma: of the noise before the sign, > 0.
        added: v > 0.
    """

    informative_residual = False

    sigma: float
    added: float

    @property
    def sigma_y(self) -> float:  # type: ignore[override]
        return (self.sigma**2 + self.added) ** 0.5

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """One number decides both: its quantile the sign, and what the sign leaves of the quantile the added noise."""
        level, plus = torch.special.ndtr(noise.double()), torch.special.ndtr((clean / self.sigma).double())
        minus = 1 - plus
        up = level >= minus
        rest = torch.where(up, (level - minus) / plus.clamp_min(1e-300), level / minus.clamp_min(1e-300))
        return (torch.where(up, 1.0, -1.0) + self.added**0.5 * torch.special.ndtri(rest)).to(clean)

    def _terms(self, y: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the two terms, but for what they share; float64, see `OneBit.log_prob`."""
        u, y = (clean / self.sigma).double(), y.double()
        return torch.special.log_ndtr(u) + y / self.added, torch.special.log_ndtr(-u) - y / self.added

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        shared = -0.5 * (y**2 + 1) / self.added - 0.5 * math.log(2 * math.pi * self.added)
        return torch.logaddexp(*self._terms(y, clean)) + shared

    def variance(self, y: Tensor) -> float:
        return self.sigma**2 + self.added

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        plus, minus = self._terms(y, clean)
        share, u = torch.sigmoid(plus - minus).to(clean), clean / self.sigma
        return (share * _mills(u) - (1 - share) * _mills(-u)) / self.sigma

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """As `OneBit.distance`, from the most that log p can be."""
        most = y.double().abs() / self.added
        lost = -2 * (torch.logaddexp(*self._terms(y, clean)) - most).flatten(1).sum(dim=1)
        return (self.sigma_y * lost.clamp_min(1e-12) ** 0.5).to(clean)

    def annealed(self, added_variance: float, y: Tensor) -> BlurredBits:
        return BlurredBits(self.sigma, self.added + added_variance)


def _mills(u: Tensor) -> Tensor:
    """phi(u) / Phi(u), about -u where u is far below 0."""
    return math.sqrt(2 / math.pi) / torch.special.erfcx(-u / math.sqrt(2))
