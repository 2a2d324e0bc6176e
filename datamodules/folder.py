"""A folder or zip of image files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from datamodules.base import ImageData
from posterior.errors import UserError
from posterior.images import ImageFile, list_images, load_image
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily


class ImageFolder(ImageData):
    """PNG and JPEG files of a folder and its subfolders, or of a zip, sorted by id (relative path without extension).

    Args:
        root: the folder, or a .zip in the convention of StyleGAN and EDM; an image has the same id in both.
        operator: family of measurement operators.
        likelihood: noise law.
        crop: side in pixels of the central square to cut out, or None.
        size: side in pixels to resize square images to, after the crop, or None.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that decode images.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: naming the folder, zip or file that is missing, empty or cannot be used.
    """

    def __init__(
        self,
        root: Path,
        operator: OperatorFamily,
        likelihood: Likelihood,
        crop: int | None = None,
        size: int | None = None,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        if (crop is not None and crop < 1) or (size is not None and size < 1):
            raise UserError(f"ImageFolder: crop and size must be >= 1 pixel, got {crop} and {size}")
        self.root, self.crop, self.size = Path(root), crop, size
        self.files: dict[str, ImageFile] = {}

    def list_ids(self) -> list[str]:
        self.files = list_images(self.root)
        return list(self.files)

    def read(self, image_id: str) -> Tensor:
        return load_image(self.files[image_id], self.crop, self.size)
