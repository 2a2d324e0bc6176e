"""Images in one .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.base import ImageData
from posterior.errors import UserError
from posterior.images import from_pixels
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily
from posterior.reading import read_arrays


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file of images: ``images`` (N, C, H, W) uint8, ``ids`` (N,) and what else there is.

    Raises:
        UserError: naming the file, if it is missing, unreadable, or holds something else.
    """
    arrays = read_arrays(path, "image file")
    images, ids = arrays.get("images"), arrays.get("ids")
    if images is None or ids is None or images.ndim != 4 or images.dtype != np.uint8 or ids.shape != images.shape[:1]:
        found = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
        raise UserError(f"image file {path} must hold images (N, C, H, W) uint8 and ids (N,), it holds {found}")
    if images.shape[3] in (1, 3) and images.shape[1] > 4:
        raise UserError(f"image file {path}: images are channels-last, {list(images.shape)}: transpose to (N, C, H, W)")
    return arrays


class ImageArray(ImageData):
    """Images of an .npz file: ``images`` (N, C, H, W) uint8, and ``ids`` (N,), one name each.

    Args:
        path: the file, e.g. datamodules/toon_faces32.npz.
        operator: family of measurement operators.
        likelihood: noise law.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that serve images.
        limit: only the first so many images (by id), for smoke runs.

    Raises:
        UserError: naming the file that is missing or cannot be used.
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
        self.images: dict[str, np.ndarray] = {}

    def list_ids(self) -> list[str]:
        arrays = load_arrays(self.path)
        ids = [str(image_id) for image_id in arrays["ids"]]
        self.images = dict(zip(ids, arrays["images"], strict=True))
        if len(self.images) < len(ids):
            raise UserError(f"image file {self.path}: two images have the same id")
        return ids

    def read(self, image_id: str) -> Tensor:
        return from_pixels(self.images[image_id])
