"""DICOM files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_dicom(path: Path, pixels: np.ndarray, modality: str, **tags: object) -> Path:
    """A slice of 16-bit numbers, as pydicom writes it.

    Args:
        path: of the file.
        pixels: (H, W).
        modality: CT or MR.
        tags: more of its tags, or others; None: without it.
    """
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    data, meta = Dataset(), FileMetaDataset()
    data.SOPClassUID = {"CT": uid.CTImageStorage, "MR": uid.MRImageStorage}[modality]
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid.ExplicitVRLittleEndian, data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid.generate_uid()
    data.Modality = modality
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = pixels.astype("<i2").tobytes()
    for name, value in tags.items():
        if value is not None:
            setattr(data, name, value)
    data.file_meta = meta
    data.save_as(path, enforce_file_format=True)
    return path
