"""What a metric is here: a number per image, and a distributed mean of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from posterior import waits
from posterior.measurement import Measurement


class ImageMetric(nn.Module, ABC):
    """A number for each image. The functional half of a metric; `MeanOverImages` is the other.

    `name` heads its column; `needs_truth` says whether it compares with the true image; `unavailable` says in one line
    why it cannot be computed here (weights that are not there), or is None.
    """

    name: str
    needs_truth: bool = True
    unavailable: str | None = None
    least_side: int = 1
    """Smallest height and width in pixels for which the metric is defined."""
    channels: tuple[int, ...] | None = None
    """Numbers of channels for which it is defined; None: any."""

    @abstractmethod
    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        """Values (B,) of images x (B, C, H, W), clipped to [-1, 1] where the metric compares pictures."""


class SampleMetric(nn.Module, ABC):
    """A number for the K > 1 samples of each image together, against its true image.

    `name` heads its column on the row of the samples' mean.
    """

    name: str

    @abstractmethod
    def forward(self, samples: Tensor, truth: Tensor) -> Tensor:
        """Values (B,) of samples (K, B, C, H, W), not clipped, and true images (B, C, H, W)."""


class MeanOverImages(torchmetrics.Metric):
    """Mean of per-image values and its standard error, over batches and ranks; each image counts once.

    Args:
        local: `compute` is of this process alone.

    The values themselves are kept (one number an image) and summed in float64 at the end: sums of squares in float32
    lose a small standard error, and some devices have no float64.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, local: bool = False) -> None:
        super().__init__(sync_on_compute=not local)
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        """Add the values (B,) of B images.

        Raises:
            ValueError: if one is not a number; it is never counted as zero.
        """
        if not waits.fetch("finite?", torch.isfinite(values).all()):
            raise ValueError("a metric value is NaN or infinite")
        # in one piece: a small tensor a batch, each where a batch's big ones have been, would keep malloc from giving
        # their memory back
        self.values = [torch.cat([*self.values, values.to(self.device, torch.float32)])]

    def compute(self) -> dict[str, float | int | None]:
        """mean, sem (None for fewer than two images) and count; mean None without images."""
        values = torch.zeros(0)
        if len(self.values):
            values = waits.on_host("mean of a metric", Tensor.double, dim_zero_cat(self.values))
        count = len(values)
        if count == 0:
            return {"mean": None, "sem": None, "count": 0}
        sem = float(values.std()) / math.sqrt(count) if count > 1 else None
        return {"mean": float(values.mean()), "sem": sem, "count": count}
