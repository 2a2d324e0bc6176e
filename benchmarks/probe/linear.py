"""The best linear denoiser of given images: what any denoiser has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.priors import ClosedFormPrior

LEAST_VARIANCE = 1e-6
"""Of a Fourier coefficient; 8-bit pixels have 5e-6 from rounding alone."""


class StationaryPrior(ClosedFormPrior):
    """The Gaussian with the mean image and the stationary covariance of images: its denoiser is Wiener's filter.

    The covariance of the colours is free at each frequency, that of two frequencies is zero. So it needs few images
    (a full covariance of 3072 numbers needs thousands), and never does better than the best linear denoiser of all.

    Args:
        images: (N, C, H, W) in [-1, 1].
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        images = images.double()
        mean = images.mean(dim=0)
        spectral = torch.fft.rfft2(images - mean, norm="ortho").permute(2, 3, 1, 0)  # (H, W // 2 + 1, C, N)
        variances, directions = torch.linalg.eigh(spectral @ spectral.mH / len(images))
        self.channels, self.size, self.size_multiple = mean.shape[0], (mean.shape[1], mean.shape[2]), None
        self.register_buffer("mean", mean.float())
        self.register_buffer("variances", variances.clamp_min(LEAST_VARIANCE).float().permute(2, 0, 1).contiguous())
        self.register_buffer("directions", directions.to(torch.complex64))

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        spectral = torch.fft.rfft2(x - self.mean)
        along = torch.einsum("hwck,bchw->bkhw", self.directions.conj(), spectral) / (self.variances + sigma**2)
        return -torch.fft.irfft2(torch.einsum("hwck,bkhw->bchw", self.directions, along), s=x.shape[-2:])

    def distance(self, x: Tensor, sigma: float) -> Tensor:
        """Squared Mahalanobis distance of x (B, C, H, W) at a noise level, over the number of its pixels, (B,)."""
        return -((x - self.mean) * self.score(x, sigma)).flatten(1).mean(dim=1)
