"""Inpainting: some pixels are not seen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posterior.checks import MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.operators.base import MaskedOrthonormal, OperatorFamily
from posterior.reading import read_array, read_picture


class Inpainting(MaskedOrthonormal):
    """y = mask * x, one mask per image for all its channels. A^T = A.

    Args:
        mask: (B, 1, H, W), 1 = pixel kept, 0 = pixel masked.
        image_shape: (C, H, W).
    """


class Denoising(OperatorFamily):
    """A = I: every pixel is seen, with noise."""

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Inpainting:
        return Inpainting(torch.ones(max(1, len(streams)), 1, *image_shape[1:]), image_shape)


class MaskedShare(OperatorFamily):
    """Exactly ``int(H * W * share)`` pixels are masked; their share is drawn per image, uniformly in [low, high].

    Args:
        low, high: bounds of the share of masked pixels, 0 <= low <= high < 1.

    Raises:
        UserError: if the bounds are not in order; on realisation if not even the share ``high`` is a pixel.
    """

    random = True

    def __init__(self, low: float, high: float) -> None:
        who = type(self).__name__
        real(who, "high", high, least=0, below=1)
        real(who, "low", low, least=0, most=high)
        self.low, self.high = low, high

    @abstractmethod
    def masked(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Row-major numbers of ``count`` different pixels of a picture (H, W): those that are masked, (count,)."""

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Inpainting:
        _, height, width = image_shape
        if self.high > 0 and int(height * width * self.high) == 0:
            raise UserError(f"{type(self).__name__}: images of {height}x{width} are too small to mask {self.high:g} of")
        masks = torch.ones(len(streams), height * width)
        for mask, generator in zip(masks, streams, strict=True):
            share = self.low + (self.high - self.low) * torch.rand((), generator=generator, dtype=torch.float64).item()
            mask[self.masked(int(height * width * share), (height, width), generator)] = 0
        return Inpainting(masks.view(-1, 1, height, width), image_shape)


class RandomInpainting(MaskedShare):
    """Random pixels are masked, of a share that is drawn per image (the rule and the setting of the DPS code).

    Args:
        low, high: bounds of the share of masked pixels, 0 <= low <= high < 1.

    Raises:
        UserError: if the bounds are not in order.
    """

    def __init__(self, low: float = 0.3, high: float = 0.7) -> None:
        super().__init__(low, high)

    def masked(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.randperm(size[0] * size[1], generator=generator)[:count]


class BoxInpainting(OperatorFamily):
    """A box is masked, its place drawn per image, uniformly at least ``margin`` pixels from the border.

    Corner rows are integers in [margin, H - margin - box), as in the DPS code (128 and 16 there, for 256x256).

    Args:
        box: side of the box in pixels, > 0.
        margin: smallest distance to the border in pixels, >= 0.

    Raises:
        UserError: if a number is out of range; on realisation, if the box and its margins do not fit into the image.
    """

    random = True

    def __init__(self, box: int = 128, margin: int = 16) -> None:
        whole("BoxInpainting", "box", box, 1, MOST_SIDE)
        whole("BoxInpainting", "margin", margin, 0, MOST_SIDE)
        self.box, self.margin = box, margin

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Inpainting:
        _, height, width = image_shape
        if min(height, width) - 2 * self.margin - self.box < 1:
            raise UserError(
                f"BoxInpainting: a box of {self.box} with margins of {self.margin} does not fit into a "
                f"{height}x{width} image"
            )
        mask = torch.ones(len(streams), 1, height, width)
        for row, generator in enumerate(streams):
            top, left = (
                int(torch.randint(self.margin, size - self.margin - self.box, (), generator=generator))
                for size in (height, width)
            )
            mask[row, :, top : top + self.box, left : left + self.box] = 0
        return Inpainting(mask, image_shape)


class MaskInpainting(OperatorFamily):
    """One given mask for all images, e.g. the one with which a user's own measurements were made.

    Args:
        mask: an image file (white = kept, black = masked) or a .npy array (H, W) of 0 and 1.

    Raises:
        UserError: naming the file, if it cannot be read, has other values, keeps nothing or everything, is partly
            transparent, in colour or animated, or has not the image's size.
    """

    def __init__(self, mask: Path) -> None:
        self.path = Path(mask)
        if self.path.suffix.lower() == ".npy":
            values, kept = read_array(self.path, "MaskInpainting: mask"), 1
        else:
            colours, kept = np.asarray(read_picture(self.path, "MaskInpainting: mask")), 255
            values = colours[..., 0]
            if (colours != values[..., None]).any():
                raise UserError(f"MaskInpainting: {self.path} is in colour: save it as white (kept) and black (masked)")
        ordinary = values.ndim == 2 and values.dtype.kind in "biuf" and bool(((values == 0) | (values == kept)).all())
        if not ordinary or not values.any():
            raise UserError(
                f"MaskInpainting: {self.path} must be (H, W) of 0 (masked) and {kept} (kept); a picture without losses "
                "(PNG) and without smoothed edges is needed"
            )
        if values.all():
            raise UserError(f"MaskInpainting: {self.path} has no hole: 0 (black) is what is masked")
        self.mask = torch.from_numpy((values > 0).astype(np.float32))

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Inpainting:
        if tuple(image_shape[1:]) != tuple(self.mask.shape):
            raise UserError(f"MaskInpainting: {self.path} is {tuple(self.mask.shape)}, the image {image_shape[1:]}")
        return Inpainting(self.mask.expand(max(1, len(streams)), 1, -1, -1), image_shape)
