"""Per-image metrics: distances to the truth, and to the measurement."""

from __future__ import annotations

import warnings
from typing import Literal

import lpips
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from posterior import waits
from posterior.checks import choice, whole
from posterior.measurement import Measurement
from posterior.metrics.base import ImageMetric
from posterior.metrics.features import VGG16_WEIGHTS, hub_file, missing
from posterior.reading import read_state

Backbone = Literal["alex", "vgg"]


def unit_range(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clipped."""
    return (x.clamp(-1, 1) + 1) / 2


class L2(ImageMetric):
    """||x - truth||, unsquared, x clipped to [-1, 1] (the paper's Figure 4)."""

    name = "l2"

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        return torch.linalg.vector_norm((x.clamp(-1, 1) - truth).flatten(1), dim=1)


class PSNR(ImageMetric):
    """Peak signal-to-noise ratio of each image in dB; images clipped and mapped to [0, 1], data range 1."""

    name = "psnr"
    channels = (1, 3)

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        with waits.inside("torchmetrics"):  # it copies the number of pixels to the device
            return peak_signal_noise_ratio(
                unit_range(x), unit_range(truth), data_range=1.0, reduction="none", dim=(1, 2, 3)
            )


class SSIM(ImageMetric):
    """Structural similarity of each image, 11x11 Gaussian window of std 1.5, data range 1 (Wang et al., 2004).

    The mean over the whole picture with mirrored borders, as torchmetrics takes it; some tools leave the border out.
    """

    name = "ssim"
    channels = (1, 3)
    least_side = 6

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        values = structural_similarity_index_measure(unit_range(x), unit_range(truth), data_range=1.0, reduction="none")
        assert isinstance(values, Tensor)
        return values.reshape(-1)


class LPIPS(ImageMetric):
    """Learned perceptual distance of each image (Zhang et al., CVPR 2018), by the `lpips` package, inputs in [-1, 1].

    Nothing is downloaded: without the backbone's weights in torch's hub folder the metric is `unavailable`.

    Args:
        net: backbone, ``alex`` or ``vgg``.
        upsample: enlarge images by this whole factor (bilinear) first; for small images, whose details the backbone
            would lose in its first layers.

    Raises:
        UserError: if the backbone is another or upsample out of range, or the weights cannot be read.
    """

    channels = (3,)
    WEIGHTS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": VGG16_WEIGHTS}

    def __init__(self, net: Backbone = "alex", upsample: int = 1) -> None:
        super().__init__()
        choice("LPIPS", "net", net, Backbone)
        whole("LPIPS", "upsample", upsample, 1, 32)  # the backbones want 32 pixels
        self.name = f"lpips_{net}" + (f"_x{upsample}" if upsample > 1 else "")
        self.upsample = upsample
        self.least_side = -(-32 // upsample)
        if not hub_file(self.WEIGHTS[net]).is_file():
            self.unavailable = f"{self.name} is left out: {missing(self.WEIGHTS[net])}"
            return
        read_state(hub_file(self.WEIGHTS[net]), f"{self.name}: weights")  # names a bad file; torchvision reads it again
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by its old names
            self.network = lpips.LPIPS(net=net, verbose=False).requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        return self.network(self._enlarged(x.clamp(-1, 1)), self._enlarged(truth)).reshape(-1)

    def _enlarged(self, x: Tensor) -> Tensor:
        return x if self.upsample == 1 else F.interpolate(x, scale_factor=self.upsample, mode="bilinear")


class Residual(ImageMetric):
    """Root mean square of (y - A x) / std(y): about 1 for the truth and for a posterior sample. x is not clipped."""

    name = "residual"
    needs_truth = False

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        return measurement.relative_residual(x)


def standard_metrics() -> list[ImageMetric]:
    """L2, PSNR, SSIM, LPIPS with both backbones, and the residual."""
    return [L2(), PSNR(), SSIM(), LPIPS("alex"), LPIPS("vgg"), Residual()]
