"""A metric in one file: a number an image. Means, errors and ranks are not its business."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior import Measurement
from posterior.metrics import ImageMetric

GREY = 2 / 255
"""One step of an 8-bit picture, on the scale of [-1, 1]."""


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (B,), of images (B, C, H, W)."""
    down, across = x.diff(dim=-2).abs(), x.diff(dim=-1).abs()
    return torch.cat([down.flatten(1), across.flatten(1)], dim=1).mean(dim=1)


class MyMetric(ImageMetric):
    """Total variation over that of the truth: about 1 for samples, below 1 for means and other smooth pictures.

    x is clipped to [-1, 1], as metrics that compare pictures do. A truth that is smoother than half a grey level counts
    as that: a number that is not finite would cost the image.
    """

    name = "tv_ratio"  # heads its column
    needs_truth = True  # False: it is computed for recorded measurements, too
    least_side = 2
    channels = None  # any number

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        """(B,); all arithmetic stays on the device of x."""
        assert truth is not None
        return total_variation(x.clamp(-1, 1)) / total_variation(truth).clamp_min(GREY / 2)
