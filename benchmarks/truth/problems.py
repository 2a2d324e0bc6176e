"""A random mixture, random projections, and an anchor as a part of a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import Dense, LinearOperator
from posterior.priors import GaussianMixturePrior


def random_mixture(num_components: int, generator: torch.Generator) -> GaussianMixturePrior:
    """A mixture in 32 dimensions: standard normal means, covariances with eigenvalues in [0.02, 0.3]."""
    dimension = 32
    vectors, _ = torch.linalg.qr(torch.randn(num_components, dimension, dimension, generator=generator))
    values = 0.02 + 0.28 * torch.rand(num_components, dimension, generator=generator)
    weights = torch.rand(num_components, generator=generator) + 0.5
    means = torch.randn(num_components, 2, 4, 4, generator=generator)
    return GaussianMixturePrior.full(weights / weights.sum(), means, (vectors * values[:, None]) @ vectors.mT)


def projection(rows: int, image_shape: Sequence[int], generator: torch.Generator) -> Dense:
    """y = M x, M (rows, d) of normal numbers of variance 1 / d."""
    size = math.prod(image_shape)
    return Dense(torch.randn(rows, size, generator=generator) / size**0.5, image_shape)


class WithAnchor(LinearOperator):
    """A x / sigma_y and x / anchor_sigma as one measurement of unit noise, (n, 1, 1)."""

    def __init__(self, operator: LinearOperator, sigma_y: float, anchor_sigma: float) -> None:
        super().__init__(operator.image_shape)
        self.operator, self.sigma_y, self.anchor_sigma = operator, sigma_y, anchor_sigma

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (torch.Size(self.operator.measurement_shape).numel() + torch.Size(self.image_shape).numel(), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(self.operator.forward(x), x)

    def stack(self, y: Tensor, x: Tensor) -> Tensor:
        """y and x in their units of noise."""
        return torch.cat([y.flatten(1) / self.sigma_y, x.flatten(1) / self.anchor_sigma], dim=1)[..., None, None]

    def restrict(self, y: Tensor) -> Tensor:
        seen, x = self._parts(y)
        return torch.cat([self.operator.restrict(seen).flatten(1), x.flatten(1)], dim=1).view_as(y)

    def adjoint(self, v: Tensor) -> Tensor:
        seen, x = self._parts(v)
        return self.operator.adjoint(seen) / self.sigma_y + x / self.anchor_sigma

    def norm(self) -> Tensor:
        return ((self.operator.norm() / self.sigma_y) ** 2 + self.anchor_sigma**-2) ** 0.5

    def norm_bound(self) -> float:
        return float((self.operator.norm_bound() / self.sigma_y) ** 2 + self.anchor_sigma**-2) ** 0.5

    def rows(self, index: Tensor) -> WithAnchor:
        return WithAnchor(self.operator.rows(index), self.sigma_y, self.anchor_sigma)

    def to(self, device: torch.device | str | torch.dtype) -> WithAnchor:
        return WithAnchor(self.operator.to(device), self.sigma_y, self.anchor_sigma)

    def _parts(self, v: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.Size(self.operator.measurement_shape).numel()
        seen, x = v.flatten(1)[:, :count], v.flatten(1)[:, count:]
        return seen.reshape(-1, *self.operator.measurement_shape), x.reshape(-1, *self.image_shape)


def anchored(measurement: Measurement, anchor: Tensor, anchor_sigma: float) -> Measurement:
    """The measurement and a noisy view of x itself, as one measurement: its posterior is p(x | x0, y)."""
    operator, sigma_y = measurement.linear_operator("an anchor"), measurement.gaussian_sigma("an anchor")
    both = WithAnchor(operator, sigma_y, anchor_sigma)
    return Measurement(both.stack(measurement.y, anchor), both, GaussianNoise(1.0))
