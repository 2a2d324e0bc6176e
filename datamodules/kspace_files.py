"""Recorded k-space in files: fastMRI's HDF5 and ISMRMRD's.

Conventions. k-space is (coils, H, W): H along the read-out, W along the phase encoding. Its zero frequency is entry
(H // 2, W // 2), the image's middle pixel is (H // 2, W // 2) too, and k-space is the orthonormal transform with
exp(-2 pi i k r / N) of the image: `posterior.operators.mri.centred_fft`, fastMRI's ``fft2c``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.mri import needed
from posterior.checks import MOST_SIDE
from posterior.errors import UserError
from posterior.reading import hdf5_file, open_dataset, shown

NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"
SCAN = "dataset"
"""The group of an ISMRMRD file that holds ``xml`` and ``data``."""
SENSITIVITIES = "sensitivities"
"""The data set of an HDF5 file that may hold coils' sensitivities, (coils, H, W) or (slices, coils, H, W)."""
NOISE = 19
REVERSED = 22
NO_IMAGE = (20, 23, 24, 26, 27, 28, 29, 30, 31)
"""Flags of acquisitions that are no lines of the image: calibration alone, navigators, phase correction, feedback,
dummy scans, corrections of surface coils, phase stabilisation. Flag n is bit n - 1. Source: ismrmrd.h of the ISMRMRD
format."""
ONE_IMAGE = ("kspace_encode_step_2", "contrast", "phase", "repetition", "set")
"""Counters of acquisitions that must be one value in a slice."""


@dataclass(frozen=True)
class Layout:
    """What the header of a scan says.

    Args:
        rows: of the image along the read-out, fewer than k-space has where the read-out is over-sampled; None: unknown.
        columns: of k-space, among which ``first`` and ``last`` are counted; None: unknown.
        first, last: columns of k-space that may be measured, from first to last - 1; None: all.
    """

    rows: int | None = None
    columns: int | None = None
    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class RawSlice:
    """A slice as a file has it.

    Args:
        kspace: (coils, H, W) complex128.
        layout: of the scan.
        mask: as the file has it, or None.
        sensitivities: (coils, H, W), or None.
        noise: numbers of a pre-scan without signal, as large as the noise of ``kspace``, or None.
    """

    kspace: np.ndarray
    layout: Layout
    mask: np.ndarray | None = None
    sensitivities: np.ndarray | None = None
    noise: np.ndarray | None = None


def count_slices(path: Path, key: str) -> int:
    """How many slices a file has.

    Args:
        path: of the file.
        key: of the k-space in fastMRI's files.

    Raises:
        UserError: naming file and key, if it is missing, damaged, or holds something else.
    """
    with _scan(path, key) as (scan, header):
        if scan is not None:
            return 1 + int(_lines(scan, header, path)["head"]["idx"]["slice"].max())
    with _kspace(path, key) as (_, data):
        return int(data.shape[0])


def read_slice(path: Path, key: str, number: int) -> RawSlice:
    """One slice of a file.

    Args:
        path, key: as `count_slices` has them.
        number: of the slice, from 0.

    Raises:
        UserError: as `count_slices`; if the header cannot be read; if an ISMRMRD file is not of Cartesian slices.
    """
    with _scan(path, key) as (scan, header):
        if scan is not None:
            return _assembled(scan, header, number, path)
    with _kspace(path, key) as (file, data):
        kspace = np.asarray(data[number]).astype(np.complex128)
        text = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
        maps = _numbers(file, SENSITIVITIES)
        return RawSlice(
            kspace.reshape(-1, *kspace.shape[-2:]),
            Layout() if text is None else layout_of(text, f"{shown(path)}: 'ismrmrd_header'"),
            _numbers(file, "mask"),
            maps[number] if maps is not None and maps.ndim == 4 and len(maps) == data.shape[0] else maps,
        )


def layout_of(header: bytes | str, name: str) -> Layout:
    """What an ISMRMRD header says of the slices, as fastMRI's loader reads it.

    Columns before encodedSpace.y // 2 - center, and from maximum + 1 on counted from there, were not measured.

    Args:
        header: XML.
        name: of it, for messages.

    Raises:
        UserError: if it is no such header.
    """
    encoding = _encoding(header, name)
    try:
        rows = _number(encoding, "reconSpace/matrixSize/x")
        columns = _number(encoding, "encodedSpace/matrixSize/y")
        limits = "encodingLimits/kspace_encoding_step_1"
        first = columns // 2 - _number(encoding, f"{limits}/center")
        last = first + _number(encoding, f"{limits}/maximum") + 1
    except ValueError as error:
        raise UserError(f"{name} is no ISMRMRD header with encodedSpace, reconSpace and encodingLimits") from error
    return Layout(rows, columns, max(first, 0), last)


def _encoding(header: bytes | str, name: str) -> ElementTree.Element:
    """The first encoding of an ISMRMRD header; errors as `layout_of`."""
    try:
        found = ElementTree.fromstring(header).find(f"{NAMESPACE}encoding")
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise UserError(f"{name} is no ISMRMRD header: it is no XML") from error
    if found is None:
        raise UserError(f"{name} is no ISMRMRD header: it has no encoding")
    return found


def _number(element: ElementTree.Element, path: str) -> int:
    found = element.findtext("/".join(f"{NAMESPACE}{part}" for part in path.split("/")))
    value = int(str(found))
    if not 0 <= value <= MOST_SIDE:
        raise ValueError(path)
    return value


def _numbers(file: Any, key: str) -> np.ndarray | None:
    """The array of numbers that a data set of an open HDF5 file holds, if it is there and is one."""
    if getattr(file.get(key), "dtype", np.dtype("O")).kind not in "biufc":
        return None
    return np.asarray(file[key])


@contextmanager
def _kspace(path: Path, key: str) -> Iterator[tuple[Any, Any]]:
    needed("h5py", "RecordedKSpace")
    with open_dataset(path, key, f"k-space ({key!r}) of") as (file, data):
        if data.ndim not in (3, 4) or data.dtype.kind != "c" or not data.size:
            raise UserError(
                f"{shown(path)}: {key!r} must be k-space (slices, H, W) or (slices, coils, H, W), complex, it is "
                f"{data.dtype}{list(data.shape)}"
            )
        yield file, data


@contextmanager
def _scan(path: Path, key: str) -> Iterator[tuple[Any, bytes]]:
    """The acquisitions and the header of an ISMRMRD file; (None, b""): it is none."""
    needed("h5py", "RecordedKSpace")
    with hdf5_file(path, f"k-space ({key!r}) of") as file:
        scan, header = (file.get(f"{SCAN}/{name}") for name in ("data", "xml"))
        there = scan is not None and header is not None and "head" in (scan.dtype.names or ())
        yield (scan, header[0]) if there else (None, b"")


def _lines(scan: Any, header: bytes, path: Path) -> np.ndarray:
    """The acquisitions that are lines of images, and those of noise.

    Raises:
        UserError: if the file has none, or other ones than Cartesian lines.
    """
    trajectory = _encoding(header, f"{shown(path)}: '{SCAN}/xml'").findtext(f"{NAMESPACE}trajectory")
    if trajectory != "cartesian":
        raise UserError(
            f"{shown(path)} has a {trajectory} trajectory: write y and the trajectory as .npy files, for "
            "RecordedMeasurements with NonCartesianMRI"
        )
    lines = scan[:]
    lines = lines[~np.logical_or.reduce([_flagged(lines, flag) for flag in NO_IMAGE])]
    image = lines[~_flagged(lines, NOISE)]
    if not len(image):
        raise UserError(f"{shown(path)}: '{SCAN}/data' has no lines of an image")
    if _flagged(image, REVERSED).any():
        raise UserError(
            f"{shown(path)}: '{SCAN}/data' has reversed lines (EPI), which are not read: reverse them first"
        )
    for name in ONE_IMAGE:
        if (values := np.unique(image["head"]["idx"][name])).size > 1:
            raise UserError(
                f"{shown(path)}: '{SCAN}/data' has {values.size} values of {name}, only single slices are read: write "
                "one file for each"
            )
    return lines


def _flagged(lines: np.ndarray, flag: int) -> np.ndarray:
    return (lines["head"]["flags"] >> np.uint64(flag - 1)) & np.uint64(1) != 0


def _assembled(scan: Any, header: bytes, number: int, path: Path) -> RawSlice:
    """Lines at their places, averages averaged; what was not measured is 0.

    A sample's row is encodedSpace.x // 2 - center_sample + its number, a line's column encodedSpace.y // 2 - center +
    kspace_encode_step_1.
    """
    lines, name = _lines(scan, header, path), f"{shown(path)}: '{SCAN}/xml'"
    layout = layout_of(header, name)
    encoding = _encoding(header, name)
    height, width = (_number(encoding, f"encodedSpace/matrixSize/{axis}") for axis in "xy")
    shift = width // 2 - _number(encoding, "encodingLimits/kspace_encoding_step_1/center")
    noise, image = lines[_flagged(lines, NOISE)], lines[~_flagged(lines, NOISE)]
    image = image[image["head"]["idx"]["slice"] == number]
    coils = int(image["head"]["active_channels"][0]) if len(image) else 1
    kspace, times = np.zeros((coils, height, width), dtype=np.complex128), np.zeros(width)
    for line in image:
        samples = _samples(line, path)
        column = int(line["head"]["idx"]["kspace_encode_step_1"]) + shift
        row = height // 2 - int(line["head"]["center_sample"]) + int(line["head"]["discard_pre"])
        if len(samples) != coils or not (0 <= column < width and 0 <= row <= height - samples.shape[1]):
            raise UserError(f"{name} says {height}x{width}, '{SCAN}/data' has a line that lies elsewhere")
        kspace[:, row : row + samples.shape[1], column] += samples
        times[column] += 1
    if not len(image):
        raise UserError(f"{shown(path)}: '{SCAN}/data' has no lines of slice {number}")
    kspace /= np.maximum(times, 1)
    return RawSlice(kspace, layout, times > 0, None, _prescan(noise, image, times, path))


def _samples(line: np.void, path: Path) -> np.ndarray:
    head, data = line["head"], np.asarray(line["data"])
    shape = int(head["active_channels"]), int(head["number_of_samples"])
    if data.size != 2 * shape[0] * shape[1]:
        raise UserError(f"{shown(path)}: '{SCAN}/data' has a line of {data.size // 2} numbers, its head says {shape}")
    samples = data.view(np.complex64).reshape(shape)
    return samples[:, int(head["discard_pre"]) : shape[1] - int(head["discard_post"])]


def _prescan(noise: np.ndarray, image: np.ndarray, times: np.ndarray, path: Path) -> np.ndarray | None:
    """Numbers of noise scans as large as the image's noise, on average over its columns.

    Variance goes with 1 / dwell time and 1 / averages, of which each column (``times``) may have its own number.
    """
    if not len(noise):
        return None
    dwell = [float(lines["head"]["sample_time_us"][0]) for lines in (noise, image)]
    ratio = dwell[0] / dwell[1] if min(dwell) > 0 else 1.0
    numbers = np.concatenate([_samples(line, path).ravel() for line in noise])
    return numbers.astype(np.complex128) * (ratio * (1 / times[times > 0]).mean()) ** 0.5
