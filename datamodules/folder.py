"""A folder or zip of image files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from datamodules.base import ImageData
from posterior.checks import MOST_SIDE, whole
from posterior.images import EXTENSIONS, load_image
from posterior.listing import File, list_files
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily


class ImageFolder(ImageData):
    """PNG and JPEG files of a folder and its subfolders, or of a zip; ids are relative paths without extension.

    Hidden files, folders that count already and the folders of runs are left out (`posterior.listing.list_files`).

    Args:
        root: the folder; a .zip in the convention of StyleGAN and EDM, where an image has the same id; or one file.
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
        for name, side in (("crop", crop), ("size", size)):
            if side is not None:
                whole("ImageFolder", name, side, 1, MOST_SIDE)
        self.root, self.crop, self.size = Path(root), crop, size
        self.files: dict[str, File] = {}

    def list_ids(self) -> list[str]:
        self.listing = list_files(self.root, EXTENSIONS, "image")
        self.files = self.listing.files
        return list(self.files)

    def read(self, image_id: str) -> Tensor:
        return load_image(self.files[image_id], self.crop, self.size)
