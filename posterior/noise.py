"""Noise laws: how a clean observation A x becomes a measurement y."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.errors import UserError


class Likelihood(ABC):
    """The law of y given the clean observation A x."""

    sigma_y: float
    """Standard deviation of the noise, in units of the measurement (the papers' eta)."""

    @abstractmethod
    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y for a clean observation and standard normal numbers, both (B, *S)."""

    @abstractmethod
    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """Gradient of log p(y | clean) with respect to ``clean``, (B, *S)."""

    @abstractmethod
    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """DPS's data misfit, one number per row, (B,)."""

    @abstractmethod
    def annealed(self, added_variance: float) -> Likelihood:
        """The law after more Gaussian noise of this variance was added to y."""


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
        if not self.sigma_y > 0:
            raise UserError(f"GaussianNoise: sigma_y must be > 0, got {self.sigma_y}")

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.sigma_y * noise

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        return (y - clean) / self.sigma_y**2

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        return torch.linalg.vector_norm((y - clean).flatten(1), dim=1)

    def annealed(self, added_variance: float) -> GaussianNoise:
        return GaussianNoise((self.sigma_y**2 + added_variance) ** 0.5)
