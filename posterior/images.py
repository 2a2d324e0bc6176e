"""Image files and tensors in [-1, 1]."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from posterior.errors import UserError

EXTENSIONS = {".png", ".jpg", ".jpeg"}


def list_images(root: Path) -> dict[str, Path]:
    """All PNG and JPEG files under a folder, recursively: image id (relative path without extension) -> path, sorted.

    Raises:
        UserError: if the folder is missing, holds no image, or two files share an id.
    """
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist")
    files: dict[str, Path] = {}
    found = (Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names)
    for path in sorted(found):
        if path.suffix.lower() in EXTENSIONS:
            image_id = path.relative_to(root).with_suffix("").as_posix()
            if image_id in files:
                raise UserError(f"{files[image_id]} and {path} have the same image id {image_id!r}: rename one")
            files[image_id] = path
    if not files:
        raise UserError(f"image folder {root} holds no PNG or JPEG file")
    return dict(sorted(files.items()))


def load_image(path: Path, crop: int | None = None, size: int | None = None) -> Tensor:
    """An image file as (3, H, W) float32 in [-1, 1].

    Grey is repeated to RGB, an opaque alpha channel is dropped, EXIF orientation is applied.

    Args:
        path: the file.
        crop: side in pixels of the central square to cut out first, or None.
        size: side in pixels to resize a square image to (Lanczos, antialiased), or None.

    Raises:
        UserError: if crop or size is < 1; naming the file, if it cannot be decoded, is partly transparent, has more
            than 8 bits a channel, is smaller than the crop, or is not square though a size is asked for.
    """
    if (crop is not None and crop < 1) or (size is not None and size < 1):
        raise UserError(f"crop and size must be >= 1 pixel, got {crop} and {size}")
    try:
        with Image.open(path) as file:
            deep = any(";16" in str(tile[3]) for tile in file.tile)  # Pillow would cut 16-bit colours to 8 bits
            image = ImageOps.exif_transpose(file)
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
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


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 of any shape, e.g. (C, H, W) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


def to_pixels(x: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W, 3) uint8, clipped and rounded; one channel is repeated.

    Raises:
        ValueError: if a value is not finite, or there are neither 1 nor 3 channels.
    """
    if not torch.isfinite(x).all():
        raise ValueError("an image with NaN or infinite values cannot be written")
    if x.shape[0] not in (1, 3):
        raise ValueError(f"cannot show an image of {x.shape[0]} channels")
    pixels = ((x.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
