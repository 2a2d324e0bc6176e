"""Pictures of any shape as squares of one size, to learn a prior from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.training import ImageSet
from posterior.checks import MOST_IMAGES, MOST_SIDE, whole
from posterior.errors import UserError
from posterior.images import ImageFile, from_pixels, list_images, load_image
from posterior.reading import read_array, read_pixels


class SquareImages(ImageSet):
    """The largest central square of each PNG or JPEG of a folder or zip, reduced to one size and kept as 8-bit pixels.

    Every n-th picture is held out, in the order of ids: folders of classes have their share in both parts.

    Args:
        root: the folder or zip.
        size: side in pixels, >= 8.
        cache: folder for the pixels (size * size * 3 bytes a picture); what is there is not decoded again.
        every: n >= 2.
        held_out: whether these are the pictures held out, or all others.

    Raises:
        UserError: if a number is out of range; when preparing, naming the file, if one cannot be used.
    """

    def __init__(self, root: Path, size: int, cache: Path, every: int = 10, held_out: bool = False) -> None:
        whole("SquareImages", "size", size, 8, MOST_SIDE)
        whole("SquareImages", "every", every, 2, MOST_IMAGES)
        self.root, self.size, self.cache = Path(root), size, Path(cache)
        self.every, self.held_out = every, held_out
        self.pixels = np.empty((0, 3, size, size), dtype=np.uint8)

    def prepare(self) -> None:
        files = list_images(self.root)
        path = self._kept(files)
        if path.exists():
            return
        squares = np.stack([square(file, self.size) for file in files.values()])
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, squares)
        partial.replace(path)

    def load(self) -> None:
        files = list_images(self.root)
        pixels = read_array(self._kept(files), "pixels of the images", mmap=True)
        if pixels.shape != (len(files), 3, self.size, self.size) or pixels.dtype != np.uint8:
            raise UserError(f"{self._kept(files)} holds other pixels than it should: delete it, and it is made again")
        number = np.arange(len(files))
        self.pixels = pixels[(number % self.every == 0) == self.held_out]

    def _kept(self, files: dict[str, ImageFile]) -> Path:
        """The file of pixels of files with these names, lengths and times; those in a zip have the zip's."""
        found = [(file if isinstance(file, Path) else file.archive).stat() for file in files.values()]
        text = "\n".join(f"{one} {it.st_size} {it.st_mtime_ns}" for one, it in zip(files, found, strict=True))
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        return self.cache / f"{self.size}px_{digest}.npy"

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Tensor:
        return from_pixels(self.pixels[index])

    def all(self) -> Tensor:
        self.prepare()
        self.load()
        return from_pixels(self.pixels)


def square(file: ImageFile, size: int) -> np.ndarray:
    """The largest central square of a picture, reduced to a side of ``size`` pixels, (3, size, size) uint8.

    Raises:
        UserError: naming the file, if it cannot be used.
    """
    image = load_image(file, min(read_pixels(file).shape[:2]), size)
    return ((image + 1) * 127.5).round().byte().numpy()
