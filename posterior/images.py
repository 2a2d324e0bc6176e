"""Image files and tensors in [-1, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from posterior.errors import UserError
from posterior.listing import Member, list_files
from posterior.reading import read_pixels

EXTENSIONS = {".png", ".jpg", ".jpeg"}

ImageFile = Path | Member


def list_images(root: Path) -> dict[str, ImageFile]:
    """All PNG and JPEG files of a folder or zip, recursively, or one file: image id -> file, in order of ids.

    The id is the relative path without extension. A zip (as StyleGAN and EDM use them, without the labels) has the ids
    of the folder that it was made from (the folder's own name must not be part of the paths within it).

    Raises:
        UserError: see `posterior.listing.list_files`.
    """
    return list_files(root, EXTENSIONS, "image").files


def load_image(path: ImageFile, crop: int | None = None, size: int | None = None) -> Tensor:
    """An image file as (3, H, W) float32 in [-1, 1].

    Grey is repeated to RGB, an opaque alpha channel is dropped, EXIF orientation is applied. PNG and grey TIFF files
    of 16 bits a channel keep them (see `posterior.reading.decode_pixels`).

    Args:
        path: the file, on its own or in a zip.
        crop: side in pixels of the central square to cut out first, or None.
        size: side in pixels to resize a square image to (Lanczos, antialiased), or None.

    Raises:
        UserError: if crop or size is < 1; naming the file, if it cannot be decoded, is partly transparent, has more
            bits a channel than are read, is smaller than the crop, or is not square though a size is asked for.
    """
    if (crop is not None and crop < 1) or (size is not None and size < 1):
        raise UserError(f"crop and size must be >= 1 pixel, got {crop} and {size}")
    pixels = read_pixels(path)
    height, width = pixels.shape[:2]
    if crop is not None:
        if min(width, height) < crop:
            raise UserError(f"image {path} is {height}x{width}, smaller than the crop of {crop}")
        left, top = (width - crop) // 2, (height - crop) // 2
        pixels = pixels[top : top + crop, left : left + crop]
    if size is not None:
        if pixels.shape[0] != pixels.shape[1]:
            raise UserError(f"image {path} is {height}x{width}, not square: set a crop before resizing to {size}")
        if len(pixels) != size:
            pixels = resized(pixels, (size, size))
    return from_pixels(pixels.transpose(2, 0, 1))


def resized(
    pixels: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 at another (width, height), of the same kind (Lanczos, antialiased).

    Args:
        pixels: of a picture.
        size: width and height.
        box: left, top, right, bottom of the part that is taken; None: all of it.
    """
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, box))
    channels = [Image.fromarray(channel) for channel in pixels.transpose(2, 0, 1).astype(np.float32)]
    found = np.stack([np.array(one.resize(size, Image.Resampling.LANCZOS, box)) for one in channels], axis=2)
    return found.round().clip(0, 65535).astype(np.uint16)


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 or uint16 of any shape, e.g. (C, H, W) -> float32 in [-1, 1]; the greatest number of the kind is 1."""
    if pixels.dtype == np.uint16:
        return torch.from_numpy(pixels.astype(np.float32)) / 32767.5 - 1
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
