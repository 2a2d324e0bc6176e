"""Image files and tensors in [-1, 1]."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from posterior.errors import UserError

EXTENSIONS = {".png", ".jpg", ".jpeg"}


UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError),  # damaged, encrypted, of unknown compression
)
"""What reading a bad image file raises, on its own or in a zip."""


@dataclass(frozen=True)
class Member:
    """A file within a zip; named like a path of it."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self) -> IO[bytes]:
        """The file, to be read."""
        return _archive(self.archive, os.getpid()).open(self.name)


ImageFile = Path | Member


@functools.lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive; one a process, since workers must not share a file's position."""
    return zipfile.ZipFile(path)


def list_images(root: Path) -> dict[str, ImageFile]:
    """All PNG and JPEG files of a folder or zip, recursively: image id -> file, sorted by id.

    The id is the relative path without extension. A zip (as StyleGAN and EDM use them, without the labels) has the ids
    of the folder that it was made from (the folder's own name must not be part of the paths within it).

    Raises:
        UserError: if it is missing, holds no image, is no zip, two files share an id, or a path leads out of it.
    """
    kind, found = ("zip", _zipped(root)) if root.suffix.lower() == ".zip" else ("image folder", _in_folder(root))
    files: dict[str, ImageFile] = {}
    for name, file in sorted(found, key=lambda pair: pair[0]):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{kind} {root}: a file in it is called {name}, which leads out of it")
        if path.suffix.lower() in EXTENSIONS:
            image_id = path.with_suffix("").as_posix()
            if image_id in files:
                raise UserError(f"{files[image_id]} and {file} have the same image id {image_id!r}: rename one")
            files[image_id] = file
    if not files:
        raise UserError(f"{kind} {root} holds no PNG or JPEG file")
    return dict(sorted(files.items()))


def _in_folder(root: Path) -> list[tuple[str, ImageFile]]:
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist")
    found = [Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names]
    return [(path.relative_to(root).as_posix(), path) for path in found]


def _zipped(root: Path) -> list[tuple[str, ImageFile]]:
    if not root.is_file():
        raise UserError(f"zip {root} does not exist")
    try:
        with zipfile.ZipFile(root) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{root} cannot be read as a zip ({error})") from error
    return [(name, Member(root, name)) for name in names if not name.startswith("__MACOSX/")]


def load_image(path: ImageFile, crop: int | None = None, size: int | None = None) -> Tensor:
    """An image file as (3, H, W) float32 in [-1, 1].

    Grey is repeated to RGB, an opaque alpha channel is dropped, EXIF orientation is applied.

    Args:
        path: the file, on its own or in a zip.
        crop: side in pixels of the central square to cut out first, or None.
        size: side in pixels to resize a square image to (Lanczos, antialiased), or None.

    Raises:
        UserError: if crop or size is < 1; naming the file, if it cannot be decoded, is partly transparent, has more
            than 8 bits a channel, is smaller than the crop, or is not square though a size is asked for.
    """
    if (crop is not None and crop < 1) or (size is not None and size < 1):
        raise UserError(f"crop and size must be >= 1 pixel, got {crop} and {size}")
    try:
        with _opened(path) as content, Image.open(content) as file:
            deep = any(";16" in str(tile[3]) for tile in file.tile)  # Pillow would cut 16-bit colours to 8 bits
            image = ImageOps.exif_transpose(file)
            image.load()
    except UNREADABLE as error:
        raise UserError(f"image {path} cannot be decoded ({error}): replace or remove the file") from error
    if deep or image.mode.startswith(("I", "F")):
        raise UserError(f"image {path} has more than 8 bits a channel, which are not read: convert it")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise UserError(f"image {path} is partly transparent: flatten it onto a background first")
    image = image.convert("RGB")
    width, height = image.size
    if crop is not None:
        if min(width, height) < crop:
            raise UserError(f"image {path} is {height}x{width}, smaller than the crop of {crop}")
        left, top = (width - crop) // 2, (height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    if size is not None:
        if image.width != image.height:
            raise UserError(f"image {path} is {height}x{width}, not square: set a crop before resizing to {size}")
        if image.width != size:
            image = image.resize((size, size), Image.Resampling.LANCZOS)
    return from_pixels(np.array(image).transpose(2, 0, 1))


def _opened(path: ImageFile) -> IO[bytes]:
    return path.open("rb") if isinstance(path, Path) else path.open()


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 of any shape, e.g. (C, H, W) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


def to_pixels(x: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W, 3) uint8, clipped and rounded; one channel is repeated.

    Two channels are a complex image, shown by its magnitude, 0 to 1.

    Raises:
        ValueError: if a value is not finite, or there are more than 3 channels.
    """
    if not torch.isfinite(x).all():
        raise ValueError("an image with NaN or infinite values cannot be written")
    if x.shape[0] == 2:
        x = 2 * torch.linalg.vector_norm(x, dim=0, keepdim=True) - 1
    if x.shape[0] not in (1, 3):
        raise ValueError(f"cannot show an image of {x.shape[0]} channels")
    pixels = ((x.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
