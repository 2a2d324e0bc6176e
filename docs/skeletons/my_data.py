"""A data set in one file: which images there are, and how one is read. Measuring and resuming are inherited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules import ImageData
from posterior import UserError
from posterior.images import from_pixels
from posterior.noise import Likelihood
from posterior.operators import OperatorFamily
from posterior.reading import read_array


class MyData(ImageData):
    """The pictures of one .npy file, (N, H, W, C) uint8, as numpy and PIL have them; ids are their numbers.

    Args:
        path: the file. (``path`` and ``root`` are settings that name where images are: each image is then known by its
            own content, and one that has changed is done again. See `MeasuredData.sources`.)
        operator: family of measurement operators.
        likelihood: noise law.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that serve images.
        limit: only the first so many images (by id), for smoke runs.

    Raises:
        UserError: naming the file that is missing or holds something else.
    """

    def __init__(
        self,
        path: Path,
        operator: OperatorFamily,
        likelihood: Likelihood,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        self.path = Path(path)
        self.pixels: np.ndarray | None = None

    def list_ids(self) -> list[str]:
        """An id is the name of a folder in the results, and of the image's random streams: keep it for ever."""
        pixels = read_array(self.path, "image file")
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[3] not in (1, 3):
            found = f"{pixels.dtype}{list(pixels.shape)}"
            raise UserError(f"image file {self.path} must hold (N, H, W, C) uint8, C = 1 or 3, it holds {found}")
        self.pixels = pixels
        return [f"{number:06d}" for number in range(len(pixels))]

    def read(self, image_id: str) -> Tensor:
        """(C, H, W), float32, in [-1, 1]. What is raised here costs the image and is named; the run goes on."""
        assert self.pixels is not None
        return from_pixels(self.pixels[int(image_id)].transpose(2, 0, 1))
