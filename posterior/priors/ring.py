"""A ring in the plane, blurred: the simplest prior whose score bends every way."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posterior.checks import real
from posterior.priors.base import ClosedFormPrior


class RingPrior(ClosedFormPrior):
    """Uniform on the unit circle plus N(0, width^2 I); images are (2, 1, 1).

    p(x) = exp(-(r^2 + 1) / (2 v)) I_0(r / v) / (2 pi v), r = |x|, v = width^2 (the paper's example E.4). Smoothing by
    sigma adds sigma^2 to v.

    Args:
        width: > 0.

    Raises:
        UserError: if width is out of range.
    """

    IMAGE_SHAPE = (2, 1, 1)
    channels, size, size_multiple = 2, (1, 1), None

    def __init__(self, width: float) -> None:
        super().__init__()
        real("RingPrior", "width", width, above=0)
        self.width = width

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """log p_sigma(x), (B,)."""
        v, r = self.width**2 + sigma**2, torch.linalg.vector_norm(x.flatten(1), dim=1)
        return -((r - 1) ** 2) / (2 * v) + torch.special.i0e(r / v).log() - math.log(2 * math.pi * v)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        v = self.width**2 + sigma**2
        r = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
        ratio = torch.special.i1e(r / v) / torch.special.i0e(r / v)
        return (ratio / r - 1) / v * x

    def curvature(self, sigma: float) -> float:
        return 1 / (self.width**2 + sigma**2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples (count, 2, 1, 1)."""
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        noise = torch.randn(count, 2, generator=generator)
        return (circle + self.width * noise).view(count, 2, 1, 1)
