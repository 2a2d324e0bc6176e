"""Slices in DICOM files."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.reading import check_file, reason, shown

ENDINGS = {".dcm", ".dicom"}


@dataclass(frozen=True)
class DicomSlice:
    """One grey slice.

    Args:
        pixels: as the file stores them, (H, W) float32.
        slope, offset: RescaleSlope and RescaleIntercept; None: not said.
        unit: RescaleType, or HU if that is not said.
    """

    pixels: Tensor
    slope: float | None
    offset: float | None
    unit: str


def read_dicom(file: object, modality: str, needed_by: str) -> DicomSlice:
    """The slice of a file.

    Args:
        file: its path; one within a zip is refused.
        modality: that it must have, as DICOM abbreviates it: CT, MR.
        needed_by: the class that asks, for messages.

    Raises:
        UserError: naming the file, if it is within a zip, missing, damaged, of another modality or no single grey
            slice; if pydicom is not installed.
    """
    if not isinstance(file, Path):
        raise UserError(f"{file}: DICOM files are not read from a zip, unpack it")
    check_file(file, "DICOM file")
    try:
        pydicom: Any = importlib.import_module("pydicom")
    except ImportError as error:
        raise UserError(f"{needed_by} needs pydicom: pip install 'posterior-sampling[ct]'") from error
    try:
        data = pydicom.dcmread(file)
        kind, unit = data.get("Modality"), str(data.get("RescaleType", "HU"))
        given = (data.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
        slope, offset = (None if value is None else float(value) for value in given)
        pixels = np.asarray(data.pixel_array) if kind == modality else np.empty(0)
    except Exception as error:  # whatever a damaged file makes a parser raise
        raise UserError(f"{shown(file)} cannot be read as DICOM ({reason(error)})") from error
    if kind != modality:
        raise UserError(f"{shown(file)} is no {modality} slice: its modality is {kind}")
    if pixels.ndim != 2:
        raise UserError(f"{shown(file)} must hold one grey slice (H, W), it is {list(pixels.shape)}")
    return DicomSlice(torch.from_numpy(pixels.astype(np.float32)), slope, offset, unit)
