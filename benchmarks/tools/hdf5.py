"""The samples of a run in one HDF5 file, in the units of what was recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.mri import needed
from posterior.errors import UserError
from posterior.ids import fault
from posterior.reading import read_array, shown
from posterior.results.journal import Journal

OWN = "those of the prior's images, in [-1, 1]"
SCANNERS = "those of the recorded file: its k-space's orthonormal transform"


def hdf5(run: Path, output: Path) -> None:
    """Write the samples of a run, their mean and standard deviation, as HDF5: a group for each image, named by its id.

    Images of two channels are complex, (K, H, W); others are (K, C, H, W). ``std`` is the root of the mean squared
    distance from the mean at each pixel (of complex numbers, over both parts). Attributes of a group: ``scale`` and
    ``offset`` (value = scale * sample + offset, sample as the run has it), ``units``, and for recorded k-space the
    noise level ``sigma`` with its interval ``sigma_low`` and ``sigma_high``, ``noise_numbers`` from which it was taken,
    and ``projection_residual``.

    Args:
        run: the folder of a run that kept its samples (--output.save_samples true).
        output: the file to write.
    """
    needed("h5py", "hdf5")
    import h5py

    units = {str(r["id"]): r.get("units") for r in Journal(run / "journal").read() if fault(r["id"]) is None}
    if not units:
        raise UserError(f"hdf5: {shown(run)} is no folder of a run with finished images")
    missing = [image_id for image_id in units if not _samples(run, image_id).is_file()]
    if missing:
        raise UserError(f"hdf5: {shown(run)} has no samples of {missing[0]}: run it with --output.save_samples true")
    if output.exists():
        raise UserError(f"hdf5: {shown(output)} is there already: name another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with h5py.File(partial, "w") as file:
            for image_id, known in units.items():
                _write(file.create_group(image_id), read_array(_samples(run, image_id), "samples"), known)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {len(units)} images")


def _samples(run: Path, image_id: str) -> Path:
    return run / "samples" / f"{image_id}.npy"


def _write(group: Any, samples: np.ndarray, units: Any) -> None:
    """One image: samples (K, C, H, W) as the run has them, and its record's ``units``, or None."""
    numbers = {name: value for name, value in (units or {}).items() if value is not None}
    scale = numbers.pop("scale", 1.0)
    values = scale * samples.astype(np.float64)
    if samples.shape[1] == 2:
        values = values[:, 0] + 1j * values[:, 1]
    single = np.complex64 if np.iscomplexobj(values) else np.float32
    group["samples"], group["mean"] = values.astype(single), values.mean(axis=0).astype(single)
    if len(values) > 1:
        group["std"] = values.std(axis=0, ddof=1).astype(np.float32)
    group.attrs.update({"scale": scale, "offset": 0.0, "units": SCANNERS if units else OWN} | numbers)
