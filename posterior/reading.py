"""Foreign files: one reader for each kind of file, and one plain line for whatever is wrong with one.

A reader raises `UserError` and nothing else. It opens nothing that could keep it waiting (a pipe, a device), and takes
no memory on the word of a header: what a header claims is compared with the size of the file first.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import pickle
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from posterior.errors import UserError

HEAD = 512
"""Bytes from which a web page or a git LFS pointer is told."""
LARGEST_MEMBER = 16 * 2**30
"""Bytes that a file within a zip may have."""
LARGEST_RATIO = 1000
"""Content of a zip over its size; deflate reaches about 1030, and only with nothing but zeros."""
SMALL_CONTENT = 64 * 2**20
"""Bytes that are unpacked whatever the ratio."""
LARGEST_PICTURE = 2**30
"""Bytes of a picture file; Pillow bounds the pixels itself."""
LARGEST_SLICE = 4 * 2**30
"""Bytes of one row of an HDF5 data set: fastMRI's largest slices have 40 MB."""
MOST_ROWS = 100_000
"""Rows of an HDF5 data set; fastMRI's volumes have about 40 slices."""
PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are decoded (JPEG: also cameras' MPO); those that start other programs (EPS) are not."""
BITS, BLACK_IS_ZERO, ORIENTATION = 258, 262, 0x0112
"""Tags of TIFF, and of EXIF: bits a channel, photometric interpretation (1 is that), how the camera was turned."""
PNG = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of PNG -> numbers of a pixel."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced PNG: first column and row, steps to the right and down."""
UNPACKED = 2**20
"""Bytes of pixels that are unpacked at a time, to be counted."""
STRANGE = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class Opens(Protocol):
    """A file that is no path, such as a member of a zip; `str` names it."""

    def open(self) -> IO[bytes]:
        """The file, to be read."""


def shown(path: object) -> str:
    """A path as a line of a message may hold it: line breaks and unprintable characters are escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def reason(error: Exception) -> str:
    """What a library says of a bad file, as one short line."""
    text = str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)
    text = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return text[:200] or type(error).__name__


def check_file(path: Path, what: str) -> int:
    """Look at a file before anything reads it.

    Args:
        path: of the file.
        what: what it is for, as the start of the message: "checkpoint", say.

    Returns:
        Its size in bytes, > 0.

    Raises:
        UserError: if it is missing, no regular file, may not be read, or is empty, a web page or a git LFS pointer.
    """
    name = f"{what} {shown(path)}"
    try:
        found = os.stat(path)  # opening a pipe would wait for its other end
    except (FileNotFoundError, NotADirectoryError) as error:
        linked = os.path.islink(path)
        raise UserError(f"{name} {'is a link to a file that ' if linked else ''}does not exist") from error
    except (OSError, ValueError) as error:
        loops = isinstance(error, OSError) and error.errno == errno.ELOOP
        why = "its symbolic links lead in a circle" if loops else reason(error)
        raise UserError(f"{name} cannot be reached: {why}") from error
    for test, kind in STRANGE.items():
        if test(found.st_mode):
            raise UserError(f"{name} is {kind}, not a file")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UserError(f"{name} cannot be opened: {reason(error)}") from error
    if not head:
        raise UserError(f"{name} is empty: get or write it again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        raise UserError(
            f"{name} is a web page, not the file itself: the download failed or asked for a login; get it again"
        )
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{name} is a pointer of git LFS, not the file itself: run 'git lfs pull' where it comes from")
    return found.st_size


@contextlib.contextmanager
def _named(what: str, name: object, problem: str) -> Iterator[None]:
    """Around the work of a library on one file: whatever it raises names the file.

    Args:
        what, name: of the file.
        problem: what its contents are not, e.g. "is not a readable .npy file".

    Raises:
        UserError: instead of any other error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged header is code to Python's parser, which warns of it
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} {shown(name)} {problem} ({reason(error)}): replace it") from error


class _Bad(Exception):
    """What is wrong with a file, for `_named` to tell."""


def read_array(file: Path | Opens, what: str, mmap: bool = False) -> np.ndarray:
    """An array of a .npy file, in the machine's byte order and at most float64 or complex128.

    Args:
        file: on its own or in a zip.
        what: what it is for, as the start of messages.
        mmap: leave it on the disk until it is used, read only (not in a zip).

    Raises:
        UserError: naming the file, if it is missing, damaged, no .npy file, or holds pickled objects.
    """
    if isinstance(file, Path):
        check_file(file, what)
    with _named(what, file, "is not a readable .npy file"), _opened(file, LARGEST_SLICE) as opened:
        if opened.read(2) == b"PK":
            raise _Bad("it is a zip, such as an .npz file; save one array by numpy.save")
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        _check_header(opened, size)
        if isinstance(file, Path) and mmap:
            return _ordinary(np.load(file, mmap_mode="r", allow_pickle=False))
        opened.seek(0)
        return _ordinary(np.load(opened, allow_pickle=False))


def _opened(file: Path | Opens, most: int) -> IO[bytes]:
    """A file that can be read and sought in; of a member of a zip, its content of at most ``most`` bytes."""
    return open(file, "rb") if isinstance(file, Path) else io.BytesIO(_member(file, most))


def _member(file: Opens, most: int) -> bytes:
    """What a member of a zip holds.

    Raises:
        _Bad: if that is more than ``most`` bytes.
    """
    with file.open() as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise _Bad(f"it has more than {most} bytes, too many for its kind")
    return content


def read_arrays(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, each as `read_array` gives them.

    Raises:
        UserError: naming the file, if it is missing, damaged, no .npz file, or holds pickled objects.
    """
    size = check_file(path, what)
    arrays = {}
    with _named(what, path, "is not a readable .npz file"), zipfile.ZipFile(path) as archive:
        _check_archive(archive, size)
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as member:
                _check_header(member, info.file_size)
            with archive.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = _ordinary(
                    np.lib.format.read_array(member, allow_pickle=False)
                )
                member.read(1)  # at its end the checksum is compared
    return arrays


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raises:
    _Bad: if what a zip of ``size`` bytes claims to hold cannot be meant, or two of its files have the same name.
    """
    members = archive.infolist()
    largest = max((info.file_size for info in members), default=0)
    total = sum(info.file_size for info in members)
    if largest > LARGEST_MEMBER or (total > SMALL_CONTENT and total > LARGEST_RATIO * size):
        raise _Bad(f"it claims to hold {total} bytes in {size}, as no honest file does")
    if len({info.filename for info in members}) < len(members):
        raise _Bad("two of the files in it have the same name")


def _check_header(file: IO[bytes], size: int) -> None:
    """Raises:
    _Bad: if the header of a .npy file of ``size`` bytes claims another number of them, or pickled objects.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise _Bad(f"version {version} of the format is not read")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise _Bad("pickled objects are not read: save an array of numbers")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if any(length < 0 for length in shape) or dtype.itemsize == 0 or claimed != there:
        raise _Bad(f"its header says {dtype}{list(shape)}, {claimed} bytes, but {there} follow")


def _ordinary(array: np.ndarray) -> np.ndarray:
    """In the byte order of the machine, no longer than torch knows floats."""
    kind, itemsize = array.dtype.kind, array.dtype.itemsize
    if kind in "fc" and itemsize > (8 if kind == "f" else 16):
        return array.astype(np.float64 if kind == "f" else np.complex128)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Args:
        path: of the file.
        what: what it is for, as the start of messages.

    Raises:
        UserError: naming the file, if it is missing or holds anything else.
    """
    check_file(path, what)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {shown(path)} is not JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{what} {shown(path)} must hold a mapping, it holds {type(found).__name__}")
    return found


def read_state(path: Path, what: str = "checkpoint") -> dict[str, Tensor]:
    """A state dict, on the CPU: of a file that torch.save wrote (weights only), or of a safetensors file.

    Which of the two it is its content says. Checksums are compared, where there are any (in torch's zips).

    Raises:
        UserError: naming the file, if it is missing, damaged, or holds anything but tensors by name.
    """
    state = _contents(path, what)
    _check_state(state, path, what)
    return state


def read_states(path: Path, what: str = "checkpoint") -> dict[str, dict[str, Tensor]]:
    """All state dicts of a file, by the name that they have in it; one that is the whole file is called "".

    Training code saves ``{"model": ..., "ema": ..., "step": ...}``; what is no state dict there is left out.

    Raises:
        UserError: naming the file, as `read_state` does, or if there is none.
    """
    found = _contents(path, what)
    named = found.items() if isinstance(found, dict) else ()
    parts = {str(key): value for key, value in named if _is_state(value) and value} or {"": found}
    for state in parts.values():
        _check_state(state, path, what)
    return parts


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, Tensor) for one in value.values())


def _contents(path: Path, what: str) -> Any:
    """What a file of weights holds.

    Raises:
        UserError: naming the file, if it is missing or cannot be read without running code.
    """
    size = check_file(path, what)
    name = f"{what} {shown(path)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _load_state(path, size)
    except _Bad as error:
        raise UserError(f"{name} is not a readable state dict: {reason(error)}; get it again") from error
    except pickle.UnpicklingError:  # torch's text, which advises to load it unsafely, is not passed on
        raise UserError(
            f"{name} is not a readable state dict: it is damaged, or holds objects of Python, which are not loaded as "
            "they may run code; save the state_dict() of the network alone"
        ) from None
    except Exception as error:
        raise UserError(
            f"{name} is not a readable state dict: it is damaged, cut off or of another format "
            f"({type(error).__name__}); get it again"
        ) from None


def _check_state(state: Any, path: Path, what: str) -> None:
    """Raises:
    UserError: naming the file, if what was read of it is anything but plain tensors by name.
    """
    name, size = f"{what} {shown(path)}", path.stat().st_size
    if not _is_state(state):
        inside = f"; it holds {', '.join(map(shown, state))}"[:200] if isinstance(state, dict) else ""
        raise UserError(f"{name} is not a state dict (names to tensors){inside}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise UserError(f"{name} is not a state dict (names to tensors); one of its names is {shown(key)[:80]}")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise UserError(f"{name}: {shown(key)} is sparse, quantized or empty, not a plain tensor")
        if value.numel() * value.element_size() > max(SMALL_CONTENT, LARGEST_RATIO * size):
            raise UserError(f"{name}: {shown(key)} claims to be {list(value.shape)}, more than the file can hold")


def _load_state(path: Path, size: int) -> Any:
    """What the file holds.

    Raises:
        _Bad: if it is of another format or a checksum is wrong.
        Exception: whatever the libraries raise.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":  # first: the length before it may begin like the others
        return safetensors.torch.load_file(path)
    if head[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
            damaged = archive.testzip()  # torch does not compare them
        if damaged is not None:
            raise _Bad(f"the checksum of its part {damaged} is wrong")
    elif head[:1] != b"\x80":  # how files of torch before 1.6 begin
        raise _Bad("it is neither a file of torch.save nor of safetensors")
    if head[:2] == b"PK" and path.suffix != ".safetensors":  # torch would go by the name
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def read_picture(file: Path | Opens, what: str = "image") -> Image.Image:
    """A picture file of 8 bits a channel as RGB; see `decode_pixels`.

    Raises:
        UserError: naming the file, also if it is missing, or has 16 bits a channel.
    """
    pixels = read_pixels(file, what)
    if pixels.dtype != np.uint8:
        raise UserError(f"{what} {shown(file)} has more than 8 bits a channel, which are not read here: convert it")
    return Image.fromarray(pixels)


def read_pixels(file: Path | Opens, what: str = "image") -> np.ndarray:
    """The pixels of a picture file, (H, W, 3) uint8 or uint16; see `decode_pixels`.

    Raises:
        UserError: naming the file, also if it is missing.
    """
    if isinstance(file, Path) and check_file(file, what) > LARGEST_PICTURE:
        raise UserError(f"{what} {shown(file)} has more than {LARGEST_PICTURE} bytes, too many for a picture")
    with _named(what, file, "cannot be decoded"):
        content = file.read_bytes() if isinstance(file, Path) else _member(file, LARGEST_PICTURE)
    return decode_pixels(content, file, what)


def decode_pixels(content: bytes, name: object, what: str = "image") -> np.ndarray:
    """A picture as RGB: grey is repeated, an opaque alpha channel dropped, EXIF orientation applied.

    PNG has 8 or 16 bits a channel, TIFF 8 or, if it is grey, 16; others have 8.

    Args:
        content: of the file.
        name: of the file, for messages.
        what: what it is for, as the start of messages.

    Returns:
        (H, W, 3): uint8, or uint16 if the file has 16 bits a channel.

    Raises:
        UserError: naming the file, if it cannot be decoded (for PNG: if a checksum is wrong), has several frames or
            more bits a channel than that, or is partly transparent.
    """
    called = f"{what} {shown(name)}"
    with _named(what, name, "cannot be decoded"):
        if content.startswith(PNG):
            _check_png(content)
        Image.init()  # otherwise Pillow knows but a few formats by name
        try:
            file = Image.open(io.BytesIO(content), formats=PICTURES)
        except UnidentifiedImageError as error:
            raise _Bad("it is neither PNG nor JPEG, or its start is damaged") from error
        with file:
            # a camera's MPO file is a photograph, with a preview or depth behind it
            if file.format != "MPO" and getattr(file, "n_frames", 1) > 1:
                raise UserError(f"{called} has several frames, an animation say: save the one that is meant")
            if _is_deep(file):
                pixels, opaque = _deep_pixels(file, content, called)
            else:
                picture = ImageOps.exif_transpose(file)
                picture.load()
                opaque = True
                if "A" in picture.mode or "transparency" in picture.info:
                    picture = picture.convert("RGBA")
                    opaque = picture.getchannel("A").getextrema() == (255, 255)
                pixels = np.array(picture.convert("RGB"))
        if not opaque:
            raise UserError(f"{called} is partly transparent: flatten it onto a background first")
        return pixels


def _is_deep(file: Image.Image) -> bool:
    """Whether an opened picture has more than 8 bits a channel; Pillow cuts colours to 8 without a word."""
    arguments = [tile[3] for tile in getattr(file, "tile", [])]
    if file.format == "PPM":  # (mode, greatest value)
        return file.mode in ("I", "F") or any(isinstance(it, tuple) and it[-1] > 255 for it in arguments)
    if file.format == "TIFF" and max(getattr(file, "tag_v2", {}).get(BITS, (1,))) > 8:  # of planes tiles do not say it
        return True
    return file.mode.startswith(("I", "F")) or (file.format != "BMP" and any(";16" in str(it) for it in arguments))


def _deep_pixels(file: Image.Image, content: bytes, called: str) -> tuple[np.ndarray, bool]:
    """Of a picture with more than 8 bits a channel: (H, W, 3) uint16, and whether it is opaque.

    Raises:
        UserError: if it is neither PNG nor grey TIFF of 16 bits.
    """
    if content.startswith(PNG):
        found = _png_numbers(content)
        channels = found.shape[2] - (found.shape[2] in (2, 4))
        pixels, key = found[..., :channels], file.info.get("transparency")
        opaque = bool((found[..., channels:] == 65535).all()) and (key is None or not (pixels == key).all(axis=2).any())
    else:
        tags = getattr(file, "tag_v2", {})  # of TIFF
        if not file.mode.startswith("I;16") or tags.get(BITS) != (16,) or tags.get(BLACK_IS_ZERO) != 1:
            raise UserError(
                f"{called} has more than 8 bits a channel, of which PNG of 16 bits and grey TIFF of 16 bits (black is "
                "0) are read: save it as PNG"
            )
        pixels, opaque = np.asarray(file)[..., None], True
    pixels = _upright(pixels, file.getexif().get(ORIENTATION, 1))
    return np.repeat(pixels, 3 // pixels.shape[2], axis=2).astype(np.uint16), opaque


def _png_numbers(content: bytes) -> np.ndarray:
    """(H, W, C) uint16, C from 1 to 4, of a PNG file of 16 bits a channel.

    By Pillow, which gives a byte of colours at a time: libpng by way of torchvision ends the process at damaged pixels.
    """

    def decoded(layout: str = "") -> tuple[np.ndarray, str]:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
            file: Any = opened
            *tile, own = file.tile[0]
            file.tile = [(*tile, layout or own)]
            return np.asarray(file), own

    upper, layout = decoded()
    if layout == "LA;16B":  # read as upper and lower byte of grey, then of alpha
        return decoded("RGBA")[0].view(">u2")
    if upper.dtype == np.uint16:
        return upper[..., None]
    return upper.astype(np.uint16) << 8 | decoded(layout[:-1] + "L")[0]  # as if the lower byte came first


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, C) turned as EXIF 2.3, tag 0x0112, says."""
    pixels = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _check_png(content: bytes) -> None:
    """Raises:
    _Bad: if a chunk is cut off, its checksum is wrong, or pixels are missing: Pillow would decode other pixels.
    """
    place, kind, view, pixels = len(PNG), b"", memoryview(content), list[memoryview]()
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if place + 12 > len(content) or end > len(content):
            raise _Bad("it is cut off")
        kind = content[place + 4 : place + 8]
        if zlib.crc32(view[place + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            raise _Bad(f"the checksum of its chunk {kind.decode('latin-1')} is wrong")
        if kind == b"IDAT":
            pixels.append(view[place + 8 : end - 4])
        place = end
    width, height, bits, colour, *_, interlaced = struct.unpack(">IIBBBBB", content[len(PNG) + 8 : len(PNG) + 21])
    if colour not in CHANNELS or width * height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        return  # Pillow has a word for it
    expected = png_bytes(width, height, bits * CHANNELS[colour], interlaced == 1)
    found, stream = 0, zlib.decompressobj()
    for part in pixels:
        while part and found < expected:
            found += len(stream.decompress(part, UNPACKED))
            part = memoryview(stream.unconsumed_tail)
    if found < expected:
        raise _Bad("pixels are missing at its end")


def png_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of a PNG file's pixels before compression: each row of each pass begins with a filter's byte.

    Source: PNG specification, third edition, sections 7.2 and 8.2 (Adam7).

    Args:
        width, height: in pixels.
        bits: of a pixel.
        interlaced: whether it has the seven passes of Adam7.
    """
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - left) // right), -(-(height - top) // down)) for left, top, right, down in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0 and rows > 0)


@contextlib.contextmanager
def hdf5_file(path: Path, what: str = "HDF5 file") -> Iterator[Any]:
    """An HDF5 file, open while the caller reads from it; what h5py raises at reading is named too.

    Yields:
        h5py's File.

    Raises:
        UserError: naming the file, if it is missing or damaged.
    """
    import h5py

    check_file(path, what)
    with _named(what, path, "is not a readable HDF5 file"), h5py.File(path, "r") as file:
        yield file


@contextlib.contextmanager
def open_dataset(path: Path, key: str, what: str = "HDF5 file") -> Iterator[tuple[Any, Any]]:
    """An HDF5 file and a data set in it, open while the caller reads from them.

    The data set has numbers, at most `MOST_ROWS` rows and at most `LARGEST_SLICE` bytes a row, and they lie in the file
    itself.

    Yields:
        h5py's File and Dataset.

    Raises:
        UserError: naming the file, if it is missing, damaged, or has no such data set.
    """
    import h5py

    name = shown(path)
    with hdf5_file(path, what) as file:
        groups = [place.as_posix() for place in (PurePosixPath(key), *PurePosixPath(key).parents) if place.name]
        if any(isinstance(file.get(group, getlink=True), h5py.ExternalLink) for group in groups):
            raise UserError(f"{name}: {key!r} is a link to another file, which is not followed: copy the data into it")
        if key not in file:
            there = ", ".join(map(shown, sorted(file)))[:200]
            raise UserError(f"{name} has no {key!r}; it has {there or 'nothing'}")
        data = file[key]
        if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "biufc" or data.ndim < 1:
            found = f"{data.dtype}{list(data.shape)}" if isinstance(data, h5py.Dataset) else "a group"
            raise UserError(f"{name}: {key!r} must be an array of numbers, it is {found}")
        if data.is_virtual or data.external:
            raise UserError(f"{name}: the data of {key!r} lie in other files, which are not read: copy them into it")
        row = math.prod(data.shape[1:]) * data.dtype.itemsize
        if data.shape[0] > MOST_ROWS or row > LARGEST_SLICE:
            raise UserError(f"{name}: {key!r} claims to be {data.dtype}{list(data.shape)}, more than can be meant")
        yield file, data
