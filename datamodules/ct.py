"""Attenuation images for computed tomography: phantoms, and slices from DICOM files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from datamodules.base import ImageData
from datamodules.dicom import ENDINGS, read_dicom
from datamodules.drawn import DrawnData
from datamodules.mri import Kind, draw_phantom
from datamodules.training import DrawnImages
from posterior.checks import MOST_SIDE, choice, whole
from posterior.errors import UserError
from posterior.listing import File, list_files
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily
from posterior.reading import shown
from posterior.transmission import Hounsfield, TransmissionPhotons


def draw_attenuation(index: int, size: int, kind: Kind = "ellipses") -> Tensor:
    """The magnitude of `datamodules.mri.draw_phantom` as a picture: (1, size, size), air around it is -1.

    On the default `Hounsfield` scale soft parts have -200 to 400 HU, what is enclosed -900 to 1000.

    Raises:
        UserError: if scikit-image is not installed.
    """
    return 2 * draw_phantom(index, size, kind, phase=0.0)[:1] - 1


class CTPhantoms(DrawnData):
    """Phantoms number ``start`` to ``start + count - 1``, (1, size, size); see `draw_attenuation`.

    Args:
        operator: family of measurement operators, e.g. `posterior.operators.ParallelBeam`.
        likelihood: noise law, e.g. `posterior.transmission.TransmissionPhotons`.
        size: side in pixels, >= 8.
        start: first phantom, >= 0.
        count: number of phantoms, >= 1.
        kind: ``ellipses`` or ``shepp_logan``.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that draw.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: if a number is out of range or the kind another; naming an image, if scikit-image is not installed.
    """

    prefix = "phantom"

    def __init__(
        self,
        operator: OperatorFamily,
        likelihood: Likelihood,
        size: int = 64,
        start: int = 0,
        count: int = 16,
        kind: Kind = "ellipses",
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, size, start, count, seed, batch_size, num_workers, limit)
        choice("CTPhantoms", "kind", kind, Kind)
        self.kind = kind

    def draw(self, number: int) -> Tensor:
        return draw_attenuation(number, self.size, self.kind)


class CTPhantomImages(DrawnImages):
    """The same phantoms for `fit`, or to fit a closed form to, drawn when they are asked for.

    Args:
        size: side in pixels, >= 8.
        start: first phantom, >= 0: give training and validation other ones.
        count: number of phantoms, >= 1.
        kind: ``ellipses`` or ``shepp_logan``.

    Raises:
        UserError: if a number is out of range or the kind another.
    """

    def __init__(self, size: int = 64, start: int = 0, count: int = 10000, kind: Kind = "ellipses") -> None:
        super().__init__(size, start, count)
        choice("CTPhantomImages", "kind", kind, Kind)
        self.kind = kind

    def image(self, index: int) -> Tensor:
        return draw_attenuation(self.start + index, self.size, self.kind)


class CTSlices(ImageData):
    """Slices from a folder of DICOM files, one each, (1, side, side): the central square on a Hounsfield scale.

    What lies outside the window is cut off. pydicom reads them: the extra ``ct``.

    Args:
        root: the folder, or one file.
        operator: family of measurement operators.
        likelihood: noise law; if it has a scale, it is that of the pictures.
        scale: of the pictures; it is what turns samples back into Hounsfield units (`Hounsfield.units`).
        crop: side in pixels of the central square, or None: the largest.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that read.
        limit: only the first so many slices, for smoke runs.

    Raises:
        UserError: naming the folder or file that is missing, unreadable or holds something else than one CT slice in
            Hounsfield units; if the noise law has another scale; if pydicom is not installed.
    """

    def __init__(
        self,
        root: Path,
        operator: OperatorFamily,
        likelihood: Likelihood,
        scale: Hounsfield | None = None,
        crop: int | None = None,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        if crop is not None:
            whole("CTSlices", "crop", crop, 8, MOST_SIDE)
        self.root, self.scale, self.crop = Path(root), scale or Hounsfield(), crop
        if isinstance(likelihood, TransmissionPhotons) and vars(likelihood.scale or Hounsfield()) != vars(self.scale):
            raise UserError(
                "CTSlices: scale is another than that of TransmissionPhotons: photons would see other matter"
            )
        self.files: dict[str, File] = {}

    def list_ids(self) -> list[str]:
        self.listing = list_files(self.root, ENDINGS, "DICOM")
        self.files = self.listing.files
        return list(self.files)

    def read(self, image_id: str) -> Tensor:
        file = self.files[image_id]
        units = _hounsfield_units(file)
        side = self.crop or min(units.shape)
        if min(units.shape) < side:
            raise UserError(f"{shown(file)} is {units.shape[0]}x{units.shape[1]}, smaller than the crop of {side}")
        top, left = ((length - side) // 2 for length in units.shape)
        return self.scale.image(units[top : top + side, left : left + side]).clamp(-1, 1)[None]


def _hounsfield_units(file: File) -> Tensor:
    """One slice, (H, W), float32.

    Raises:
        UserError: naming the file, if it holds something else.
    """
    found = read_dicom(file, "CT", "CTSlices")
    if found.slope is None or found.offset is None or found.unit not in ("HU", "US", ""):
        raise UserError(f"{shown(file)} does not say how its numbers become Hounsfield units (RescaleSlope)")
    units = found.pixels * found.slope + found.offset
    if not torch.isfinite(units).all():
        raise UserError(f"{shown(file)} holds Hounsfield units that are not finite")
    return units
