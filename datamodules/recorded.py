"""Measurements that a user made: y without truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import CPUBatch, MeasuredData
from posterior.checks import MOST_CHANNELS, MOST_SIDE, brief, whole
from posterior.errors import UserError
from posterior.listing import File, list_files
from posterior.measurement import Measurement
from posterior.noise import OVERSHOOT, Likelihood
from posterior.operators.base import Operator, OperatorFamily
from posterior.reading import read_array, shown

LARGEST = 8.0
"""Size of y beyond which it cannot be on the scale of images in [-1, 1]: pixels in [0, 255] are, unless all black."""


class RecordedMeasurements(MeasuredData):
    """A folder (recursive) of ``.npy`` files, one measurement y each; only the residual and the cost are reported.

    Args:
        root: the folder.
        operator: the operator with which y was measured; a random family is refused, as its draw is not known here.
        likelihood: noise law of y.
        image_shape: (C, H, W) of the images to reconstruct.
        seed: the run's seed, for the samples.
        batch_size: measurements per batch and device.
        num_workers: processes that read files.
        limit: only the first so many measurements.

    Raises:
        UserError: naming the folder or file that is missing, empty, of the wrong shape, not finite or on another scale
            than the images (where the operator keeps it, see `keeps_scale`).
    """

    has_truth = False

    def __init__(
        self,
        root: Path,
        operator: OperatorFamily,
        likelihood: Likelihood,
        image_shape: Sequence[int],
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        if operator.random:
            raise UserError(
                f"RecordedMeasurements: {type(operator).__name__} draws its parameters at random; name the operator "
                "that made y (for inpainting MaskInpainting with the mask, for blur GivenBlur with the kernel)"
            )
        self.root, self.image_shape = Path(root), tuple(image_shape)
        if len(self.image_shape) != 3:
            raise UserError(f"RecordedMeasurements: image_shape must be (C, H, W), got {brief(self.image_shape)}")
        for length, most in zip(self.image_shape, (MOST_CHANNELS, MOST_SIDE, MOST_SIDE), strict=True):
            whole("RecordedMeasurements", "image_shape", length, 1, most)
        self.files: dict[str, File] = {}
        self.warned = False

    def list_ids(self) -> list[str]:
        self.listing = list_files(self.root, {".npy"}, "measurement")
        self.files = self.listing.files
        return list(self.files)

    def read(self, image_id: str) -> Tensor:
        path = self.files[image_id]
        operator = self.operator.realise(self.image_shape)
        expected = operator.measurement_shape
        y, name = read_array(path, "measurement"), f"measurement {shown(path)}"
        if y.dtype.kind != "f":
            raise UserError(
                f"{name} must hold real floating-point numbers on the scale of images in [-1, 1], "
                f"got {y.dtype}: y / 127.5 - 1 converts 8-bit values"
            )
        if y.shape != expected:
            swapped = len(expected) == 3 and y.shape == (*expected[1:], expected[0])
            hint = ", its channels come last: transpose it to (C, H, W)" if swapped else ""
            raise UserError(f"{name} has shape {y.shape}, the operator gives {expected}{hint}")
        with np.errstate(over="ignore"):
            values = y.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{name} holds NaN or infinite values")
        measured = operator.restrict(torch.from_numpy(values)[None])
        if keeps_scale(operator):
            _check_scale(name, measured, self.likelihood.sigma_y)
        self.likelihood.along(operator).check(measured, name)
        return torch.from_numpy(values)

    def collate(self, ids: list[str], items: Tensor) -> CPUBatch:
        streams = [torch.Generator() for _ in ids]  # one per row; the operator draws nothing from them
        return CPUBatch(ids, self.operator.realise(self.image_shape, streams), y=items)

    def measure(self, batch: CPUBatch) -> Measurement:
        assert batch.y is not None
        assert batch.operator is not None
        y = batch.operator.restrict(batch.y)
        if not self.warned and keeps_scale(self.operator.realise(self.image_shape)):
            self._warn_of_scale(batch.ids, y)
        return Measurement(y, batch.operator, self.likelihood)

    def _warn_of_scale(self, ids: list[str], y: Tensor) -> None:
        """Say, once a run, that a measurement may be on another scale than that of images.

        It lies within [0, 1], as that of a bright image does, too, or outside [-1, 1] by more than `OVERSHOOT` and
        6 sigma_y.
        """
        sigma_y = self.likelihood.sigma_y
        slack, low, high = 4 * min(sigma_y, 0.05), y.flatten(1).amin(dim=1), y.flatten(1).amax(dim=1)
        told = {
            "lies within [0, 1]; expected is [-1, 1], the scale of images. If all of them do, convert them by 2 y - 1 "
            "and double sigma_y": (low >= -slack) & (high <= 1 + slack) & (high > slack),
            "leaves [-1, 1], the scale of images, by more than its noise explains; are the images on that scale?": (
                torch.maximum(-low, high) > 1 + OVERSHOOT + 6 * sigma_y
            ),
        }
        for message, rows in told.items():
            if rows.any():
                self.warned = True
                logging.getLogger(__name__).warning("measurement %s %s", ids[int(rows.nonzero()[0])], message)
                return


def keeps_scale(operator: Operator) -> bool:
    """Whether y is on the scale of images: a grey image is measured as the same grey, wherever anything is measured.

    So are inpainting, super-resolution and blur; Fourier amplitudes, k-space and compressed sensing are not.

    Args:
        operator: realised for one image, on the CPU.
    """
    seen = operator.forward(torch.full((1, *operator.image_shape), 0.5))
    return bool(torch.allclose(seen, operator.restrict(torch.full_like(seen, 0.5)), atol=0.02))


def _check_scale(name: str, y: Tensor, sigma_y: float) -> None:
    """Raises:
    UserError: if values are larger than `LARGEST` and 6 sigma_y: they are on another scale.
    """
    low, high = float(y.min()), float(y.max())
    if max(-low, high) <= LARGEST + 6 * sigma_y:
        return
    eight_bits = low > -high / 2 and 20 < high < 400
    formula = "y / 127.5 - 1 converts [0, 255]" if eight_bits else "2 (y - low) / (high - low) - 1 converts [low, high]"
    raise UserError(
        f"{name} has values from {low:.4g} to {high:.4g}; expected is the scale of images in [-1, 1], with "
        f"noise of {sigma_y:.3g}: {formula}, and sigma_y is scaled by the same factor"
    )
