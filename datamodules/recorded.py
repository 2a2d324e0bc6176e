"""Measurements that a user made: y without truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import CPUBatch, MeasuredData
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily


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
        UserError: naming the folder or file that is missing, empty, of the wrong shape or not finite.
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
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise UserError(f"RecordedMeasurements: image_shape must be (C, H, W), got {self.image_shape}")

    def list_ids(self) -> list[str]:
        if not self.root.is_dir():
            raise UserError(f"measurement folder {self.root} does not exist")
        ids = sorted(path.relative_to(self.root).with_suffix("").as_posix() for path in self.root.rglob("*.npy"))
        if not ids:
            raise UserError(f"measurement folder {self.root} holds no .npy file")
        return ids

    def read(self, image_id: str) -> Tensor:
        path = self.root / f"{image_id}.npy"
        expected = self.operator.realise(self.image_shape).measurement_shape
        try:
            y = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"measurement {path} cannot be read: {error}") from error
        if not isinstance(y, np.ndarray) or not np.issubdtype(y.dtype, np.floating):
            raise UserError(
                f"measurement {path} must hold real floating-point numbers on the scale of images in [-1, 1], "
                f"got {getattr(y, 'dtype', type(y).__name__)}"
            )
        if y.shape != expected:
            raise UserError(f"measurement {path} has shape {y.shape}, the operator gives {expected}")
        with np.errstate(over="ignore"):
            values = y.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"measurement {path} holds NaN or infinite values")
        return torch.from_numpy(values)

    def collate(self, ids: list[str], items: Tensor) -> CPUBatch:
        streams = [torch.Generator() for _ in ids]  # one per row; the operator draws nothing from them
        return CPUBatch(ids, self.operator.realise(self.image_shape, streams), y=items)

    def measure(self, batch: CPUBatch) -> Measurement:
        assert batch.y is not None
        assert batch.operator is not None
        return Measurement(batch.operator.restrict(batch.y), batch.operator, self.likelihood)
