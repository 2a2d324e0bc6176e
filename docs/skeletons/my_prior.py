"""A prior in one file: in closed form, so that samplers can be held against the exact posterior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior import UserError
from posterior.checks import MOST_CHANNELS, length, real
from posterior.priors import ClosedFormPrior


class MyPrior(ClosedFormPrior):
    """Independent pixels: channel c is N(mean_c, std_c^2) in every pixel, images of any size.

    Smoothing by sigma adds sigma^2 to each variance, so grad log p_sigma(x) = (mean - x) / (std^2 + sigma^2); the
    denoiser follows from it by Tweedie's formula (docs/method.md section 1). A network goes the other way round: derive
    from `Prior`, and give the denoiser in `_predict`.

    Args:
        mean: of each channel, in [-1, 1].
        std: of each channel, > 0.

    Raises:
        UserError: if the lengths differ or a number is out of range.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (0.5, 0.5, 0.5)) -> None:
        super().__init__()
        length("MyPrior", "mean", mean, 1, MOST_CHANNELS)
        if len(std) != len(mean):
            raise UserError(f"MyPrior: mean has {len(mean)} entries, std has {len(std)}")
        for colour, spread in zip(mean, std, strict=True):
            real("MyPrior", "mean", colour, least=-1, most=1)
            real("MyPrior", "std", spread, above=0)
        self.channels = len(mean)  # what images it is for: others are refused before anything runs
        # buffers move to the device, and tell this prior from another one when a run goes on
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("variance", torch.tensor(std).view(-1, 1, 1) ** 2)
        self.least_variance = min(std) ** 2

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``sigma`` is a number or (B, 1, 1, 1), 0 allowed."""
        return (self.mean - x) / (self.variance + sigma**2)

    def curvature(self, sigma: float) -> float:
        """A better bound than 1 / sigma^2, which holds for every prior; step sizes follow from it."""
        return 1 / (self.least_variance + sigma**2)

    def sample_from(self, noise: Tensor) -> Tensor:
        """Exact samples, made from standard normal numbers (B, C, H, W)."""
        return self.mean + self.variance.sqrt() * noise
