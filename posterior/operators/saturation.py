"""Saturation: what is brighter than a level is seen at that level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior.checks import MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.operators.base import Operator, OperatorFamily


class SaturatedAverages(Operator):
    """min(means of blocks of pixels, level). Where they saturate, their derivative is 0.

    Args:
        image_shape: (C, H, W).
        level: the largest value that is seen.
        scale: side of a block, which divides height and width.
    """

    def __init__(self, image_shape: Sequence[int], level: float, scale: int) -> None:
        super().__init__(image_shape)
        self.level, self.scale = level, scale

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        channels, height, width = self.image_shape
        return (channels, height // self.scale, width // self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.scale).clamp_max(self.level)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """v / scale^2 in all pixels of a block that does not saturate, 0 elsewhere."""
        passed = torch.where(F.avg_pool2d(x, self.scale) <= self.level, v, 0) / self.scale**2
        return passed.repeat_interleave(self.scale, dim=-2).repeat_interleave(self.scale, dim=-1)


class Saturation(OperatorFamily):
    """A sensor whose pixels saturate: each is the mean of a block of the image's, cut off at a level.

    Noise comes after it, as a reader's does.

    Args:
        level: on the scale of the images, in (-1, 1).
        scale: side of a block >= 1, which must divide the image's height and width; 1: every pixel by itself.

    Raises:
        UserError: if a number is out of range, or on realisation if scale does not divide the size.
    """

    def __init__(self, level: float = 0.0, scale: int = 1) -> None:
        real("Saturation", "level", level, above=-1, below=1)
        whole("Saturation", "scale", scale, 1, MOST_SIDE)
        self.level, self.scale = level, scale

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> SaturatedAverages:
        _, height, width = image_shape
        if height % self.scale or width % self.scale:
            raise UserError(f"Saturation: scale {self.scale} does not divide the image size {height}x{width}")
        return SaturatedAverages(image_shape, self.level, self.scale)
