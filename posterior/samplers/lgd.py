"""Loss-guided diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.checks import MOST_SAMPLES, whole
from posterior.measurement import Measurement
from posterior.random import Streams
from posterior.samplers.dps import DPS


@dataclass(frozen=True)
class LGD(DPS):
    """LGD-MC: `DPS`, whose misfit is asked of images around D instead of D itself.

    Source: Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat, "Loss-Guided Diffusion Models for Plug-and-Play
    Controllable Generation", ICML 2023. With a loss l, the step goes down

        -log (1 / n sum_j exp(-l(x_j))),  x_j ~ N(D, r^2 I),  r^2 = sigma^2 / (1 + sigma^2)

    The loss is DPS's, ||y - A x|| for Gaussian noise, so that any operator and any noise will do. No code of the
    authors is public; InverseBench goes down (sum_j ||y - A x_j||^2)^(1/2) / n.

    Args:
        num_draws: n >= 1 (InverseBench: 3); they cost no network calls.

    Raises:
        UserError: if a number is out of range.
    """

    num_draws: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("LGD", "num_draws", self.num_draws, 1, MOST_SAMPLES)

    def misfit(self, measurement: Measurement, denoised: Tensor, rng: Streams, sigma: float) -> Tensor:
        return math.log(self.num_draws) - torch.logsumexp(-self.losses(measurement, denoised, rng, sigma), dim=0)

    def losses(self, measurement: Measurement, denoised: Tensor, rng: Streams, sigma: float) -> Tensor:
        """l(x_j), (n, R)."""
        r = sigma / (1 + sigma**2) ** 0.5
        around = (denoised + r * rng.randn_like("around", denoised) for _ in range(self.num_draws))
        return torch.stack([measurement.distance(x) for x in around])
