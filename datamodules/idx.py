"""Images of an idx file, the format of MNIST (LeCun, Cortes and Burges 1998; see `posterior.idx`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageData
from datamodules.training import ImageSet
from posterior.checks import MOST_IMAGES, MOST_SIDE, whole
from posterior.errors import UserError
from posterior.idx import padded, read_labelled
from posterior.images import from_pixels
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily


class IdxImages(ImageData):
    """Grey pictures of an idx file, padded with black to a square: (1, size, size); the id is ``idx_`` and the number.

    Args:
        path: of the images, (N, H, W) unsigned bytes, also compressed by gzip.
        operator: family of measurement operators.
        likelihood: noise law.
        size: side in pixels, not smaller than the pictures; 28x28 is put into the middle of 32x32.
        start: first image, >= 0.
        count: number of images, >= 1; None: all that follow.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that serve images.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: if a number is out of range; naming the file, if it cannot be used, or has no image ``start``.
    """

    def __init__(
        self,
        path: Path,
        operator: OperatorFamily,
        likelihood: Likelihood,
        size: int = 32,
        start: int = 0,
        count: int | None = None,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        self.source = IdxImageSet(path, None, size, start, count)
        self.path = self.source.path

    def list_ids(self) -> list[str]:
        self.source.load()
        first = self.source.start
        return [f"idx_{index:06d}" for index in range(first, first + len(self.source))]

    def read(self, image_id: str) -> Tensor:
        return self.source.image(int(image_id.removeprefix("idx_")) - self.source.start)


class IdxImageSet(ImageSet):
    """The same pictures, to learn from.

    Args:
        path, size, start, count: see `IdxImages`.
        labels: idx file of as many unsigned bytes, one an image; None: there are none.

    Raises:
        UserError: if a number is out of range; when loading, naming the file that cannot be used.
    """

    def __init__(
        self, path: Path, labels: Path | None = None, size: int = 32, start: int = 0, count: int | None = None
    ) -> None:
        whole("IdxImages", "size", size, 8, MOST_SIDE)
        whole("IdxImages", "start", start, 0, MOST_IMAGES)
        if count is not None:
            whole("IdxImages", "count", count, 1, MOST_IMAGES)
        self.path, self.labels = Path(path), None if labels is None else Path(labels)
        self.size, self.start, self.count = size, start, count
        self.pixels = np.empty((0, size, size), dtype=np.uint8)
        self.classes: np.ndarray | None = None

    def load(self) -> None:
        pixels, classes = read_labelled(self.path, self.labels)
        chosen = slice(self.start, None if self.count is None else self.start + self.count)
        if len(pixels[chosen]) < (self.count or 1):
            wanted = f"number {self.start} and {(self.count or 1) - 1} more"
            raise UserError(f"idx images {self.path} has {len(pixels)} images, not {wanted}")
        self.pixels = padded(pixels[chosen], self.size)
        self.classes = None if classes is None else classes[chosen]

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Tensor:
        return from_pixels(self.pixels[index][None])

    def label(self, index: int) -> int:
        """The label of image number ``index`` of the set.

        Raises:
            UserError: if no labels were named.
        """
        if self.classes is None:
            raise UserError(f"idx images {self.path}: labels were not named")
        return int(self.classes[index])

    def all(self) -> Tensor:
        self.load()
        return torch.from_numpy(self.pixels[:, None]).float() / 127.5 - 1
