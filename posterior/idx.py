"""Files in the idx format: an array of unsigned bytes behind a short header, as MNIST's are.

The header is 0, 0, a code of the type (8: unsigned byte), the number of dimensions, and each dimension as a big-endian
32-bit number. Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from posterior.errors import UserError
from posterior.reading import LARGEST_RATIO, check_file, reason, shown

GZIP = b"\x1f\x8b"
UNSIGNED_BYTES = b"\x00\x00\x08"


def packed(path: Path) -> bool:
    """Whether a file that is there is compressed by gzip."""
    with open(path, "rb") as file:
        return file.read(len(GZIP)) == GZIP


def idx_shape(path: Path, what: str) -> tuple[int, ...]:
    """The dimensions that an idx file's header names; a compressed file is unpacked no further than that.

    Args:
        path: of the file, also compressed by gzip.
        what: what it is for, as the start of messages.

    Raises:
        UserError: naming the file, if it is missing, or does not begin as an idx file of unsigned bytes does.
    """
    check_file(path, what)
    try:
        with _opened(path) as file:
            return _header(file, f"{what} {shown(path)}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{what} {shown(path)} cannot be read ({reason(error)}): get it again") from error


def read_idx(path: Path, what: str, mmap: bool = False) -> np.ndarray:
    """The array of an idx file, uint8.

    Args:
        path: of the file, also compressed by gzip.
        what: what it is for, as the start of messages.
        mmap: leave it on the disk until it is used (not a compressed one).

    Raises:
        UserError: naming the file, if it is missing, is cut off or has too much, or is no idx file of unsigned bytes.
    """
    size, shape, name = check_file(path, what), idx_shape(path, what), f"{what} {shown(path)}"
    claimed = math.prod(shape)
    if claimed > LARGEST_RATIO * size:
        raise UserError(f"{name}: its header says {list(shape)}, more than {size} bytes can hold: get it again")
    start = len(UNSIGNED_BYTES) + 1 + 4 * len(shape)
    try:
        with _opened(path) as file:
            file.seek(start)
            there = size - start if mmap and not packed(path) else len(content := file.read(claimed + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} is cut off or damaged ({reason(error)}): get it again") from error
    if there != claimed:
        found = f"only {there} bytes" if there < claimed else "more"
        raise UserError(f"{name}: its header says {list(shape)}, {claimed} bytes, but {found} follow: get it again")
    if mmap and not packed(path):
        return np.memmap(path, np.uint8, "c", start, shape)
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


def read_labelled(images: Path, labels: Path | None, mmap: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N, H, W) uint8 and the label of each, (N,) int64, of two idx files.

    Args:
        images, labels: the files; without ``labels`` there are none.
        mmap: see `read_idx`.

    Raises:
        UserError: naming the file, if it cannot be used, has other dimensions, or the numbers differ.
    """
    pictures = read_idx(images, "idx images", mmap)
    if pictures.ndim != 3 or not pictures.size:
        raise UserError(f"idx images {shown(images)} must be (N, H, W), its header says {list(pictures.shape)}")
    if labels is None:
        return pictures, None
    names = read_idx(labels, "idx labels")
    if names.ndim != 1:
        raise UserError(f"idx labels {shown(labels)} must be (N,), its header says {list(names.shape)}")
    if len(names) != len(pictures):
        raise UserError(
            f"idx labels {shown(labels)} are {len(names)}, the images of {shown(images)} {len(pictures)}: they do not "
            "belong together"
        )
    return pictures, names.astype(np.int64)


def padded(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pictures (..., H, W) in the middle of black ones, (..., size, size).

    Raises:
        UserError: if they are larger.
    """
    height, width = pixels.shape[-2:]
    if max(height, width) > size:
        raise UserError(f"images of {height}x{width} do not fit into {size}x{size}: set size {max(height, width)}")
    rows, columns = size - height, size - width
    around = [(0, 0)] * (pixels.ndim - 2) + [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]
    return np.pad(pixels, around)


def _opened(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if packed(path) else open(path, "rb")


def _header(file: io.BufferedIOBase, name: str) -> tuple[int, ...]:
    magic = file.read(4)
    if magic[:3] != UNSIGNED_BYTES or len(magic) < 4 or not 1 <= magic[3] <= 8:
        raise UserError(
            f"{name} begins with 0x{magic.hex()}, an idx file of unsigned bytes with 0x000008 and the number of its "
            "dimensions: another kind of file"
        )
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UserError(f"{name} is cut off within its header: get it again")
    return tuple(int(value) for value in np.frombuffer(sizes, ">u4"))
