"""What a metric is here: a number per image, and a distributed mean of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torchmetrics
from torch import Tensor, nn

from posterior.measurement import Measurement


class ImageMetric(nn.Module, ABC):
    """A number for each image. The functional half of a metric; `MeanOverImages` is the other.

    `name` heads its column; `needs_truth` says whether it compares with the true image; `unavailable` says in one line
    why it cannot be computed here (weights that are not there), or is None.
    """

    name: str
    needs_truth: bool = True
    unavailable: str | None = None

    @abstractmethod
    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        """Values (B,) of images x (B, C, H, W), clipped to [-1, 1] where the metric compares pictures."""


class MeanOverImages(torchmetrics.Metric):
    """Mean of per-image values and its standard error, over batches and ranks; each image counts once."""

    full_state_update = False
    total: Tensor
    total_squared: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total_squared", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add the values (B,) of B images.

        Raises:
            ValueError: if one is not a number; it is never counted as zero.
        """
        if not torch.isfinite(values).all():
            raise ValueError("a metric value is NaN or infinite")
        values = values.to(self.total)
        self.total += values.sum()
        self.total_squared += values.square().sum()
        self.count += len(values)

    def compute(self) -> dict[str, float | int | None]:
        """mean, sem (None for fewer than two images) and count; mean None without images."""
        count = int(self.count)
        if count == 0:
            return {"mean": None, "sem": None, "count": 0}
        mean = float(self.total) / count
        variance = max(float(self.total_squared) / count - mean**2, 0.0) * count / max(count - 1, 1)
        return {"mean": mean, "sem": math.sqrt(variance / count) if count > 1 else None, "count": count}
