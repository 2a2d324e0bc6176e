"""The measures of the fastMRI challenge, of the magnitude of complex images, one slice at a time.

Source: Zbontar et al., arXiv:1811.08839, section 5; fastMRI takes them over volumes, which single slices do not make.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from posterior import waits
from posterior.measurement import Measurement
from posterior.metrics.base import ImageMetric


def magnitude(x: Tensor) -> Tensor:
    """|z| of complex images (B, 2, H, W), (B, H, W); of real ones (B, 1, H, W) the absolute value."""
    return torch.linalg.vector_norm(x, dim=1)


class NMSE(ImageMetric):
    """|| |x| - |truth| ||^2 / || truth ||^2."""

    name = "nmse"
    channels = (1, 2)

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        found, wanted = magnitude(x).flatten(1), magnitude(truth).flatten(1)
        return (found - wanted).square().sum(dim=1) / wanted.square().sum(dim=1)


class MagnitudePSNR(ImageMetric):
    """Peak signal-to-noise ratio of the magnitude in dB, the peak being the truth's largest value."""

    name = "psnr"
    channels = (1, 2)

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        found, wanted = magnitude(x).flatten(1), magnitude(truth).flatten(1)
        return 10 * (wanted.amax(dim=1).square() / (found - wanted).square().mean(dim=1)).log10()


class MagnitudeSSIM(ImageMetric):
    """Structural similarity of the magnitude by scikit-image, 7x7 uniform window, data range the truth's maximum."""

    name = "ssim"
    channels = (1, 2)
    least_side = 7

    def __init__(self) -> None:
        super().__init__()
        if importlib.util.find_spec("skimage") is None:
            self.unavailable = "ssim is left out: it needs scikit-image (pip install 'posterior-sampling[mri]')"

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        values = waits.on_host("metric on the host", _similarities, magnitude(x), magnitude(truth))
        return waits.to_device("metric on the host", values, x)


def _similarities(found: Tensor, wanted: Tensor) -> Tensor:
    from skimage.metrics import structural_similarity

    pairs = zip(found.numpy(), wanted.numpy(), strict=True)
    return torch.tensor([float(structural_similarity(t, f, data_range=t.max())) for f, t in pairs])
