"""MRI that a scanner recorded: k-space without truth."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import CPUBatch, Item, MeasuredData
from datamodules.kspace_files import SENSITIVITIES, RawSlice, count_slices, read_slice
from datamodules.kspace_noise import NoiseLevel, corner_noise, noise_level
from datamodules.mri import VOLUMES, check_centre, energy_of
from posterior.checks import MOST_COILS, MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.listing import list_files
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators.coils import (
    LEAST_CALIBRATION,
    calibration_width,
    checked_sensitivities,
    estimated_sensitivities,
    projection_residual,
)
from posterior.operators.mri import (
    CartesianMRI,
    MultiCoilFourier,
    UndersampledFourier,
    centred_fft,
    centred_ifft,
    to_channels,
    to_complex,
)
from posterior.random import stream
from posterior.reading import read_array, shown

FULL = 0.99
"""Share of the numbers of the measured columns that must differ from zero for these to be measured columns."""
WORST_RESIDUAL = 0.3
"""Of the calibration data, beyond what noise explains: with more, sensitivities are refused."""
LEAST_SIDE = 8
"""Of k-space, as of a phantom."""
SINGLE = torch.finfo(torch.float32)
"""A slice passes through a loader in single precision, its units too."""
ISMRMRD = ".mrd"
NUMBERS = 6
"""Of `Units`."""


@dataclass(frozen=True)
class Units:
    """What turns a sample into the scanner's units, and what was estimated on the way.

    Args:
        scale: an image in the scanner's units is ``scale`` times the image that is sampled.
        sigma: noise level of the real and of the imaginary part of k-space, in the scanner's units.
        sigma_low, sigma_high: its 95 % interval.
        noise_numbers: complex numbers it was taken from; 0: it was given.
        projection_residual: of the sensitivities; None: none, or too little of k-space's middle (`LEAST_CALIBRATION`).
    """

    scale: float
    sigma: float
    sigma_low: float
    sigma_high: float
    noise_numbers: float
    projection_residual: float | None

    def told(self) -> str:
        """In words."""
        interval = f"({self.sigma_low:.4g} to {self.sigma_high:.4g}, 95 %, from {self.noise_numbers:.0f} numbers)"
        text = f"noise {self.sigma:.4g} {interval if self.noise_numbers else 'as given'}"
        text += f"; 1 is {self.scale:.4g} in the scanner's units, so sigma_y is {self.sigma / self.scale:.4g}"
        if self.projection_residual is not None:
            text += f"; the coils' projection residual is {self.projection_residual:.3f}"
        return text


@dataclass(frozen=True)
class Slice:
    """One slice, ready to be sampled; as one tensor it passes through a loader, and its digest is known.

    Args:
        y: k-space over ``scale``, (2 coils, H, W), 0 where it is not measured.
        mask: 1 = measured, (H, W).
        sensitivities: (2 coils, H, W), real and imaginary parts in turn; None: one coil.
        units: its numbers.
    """

    y: Tensor
    mask: Tensor
    sensitivities: Tensor | None
    units: Units

    def packed(self) -> Tensor:
        """(2 coils (one or two times) + 2, H, W)."""
        numbers = torch.zeros_like(self.mask)
        values = [float("nan") if value is None else value for value in asdict(self.units).values()]
        numbers.view(-1)[:NUMBERS] = torch.tensor(values)
        maps = [] if self.sensitivities is None else [self.sensitivities]
        return torch.cat([self.y, *maps, self.mask[None], numbers[None]])

    @classmethod
    def unpacked(cls, item: Tensor) -> Slice:
        """The inverse of `packed`."""
        data, mask = item[:-2], item[-2]
        y, maps = data.chunk(2) if len(data) > 2 else (data, None)
        scale, sigma, low, high, numbers, residual = item[-1].flatten()[:NUMBERS].tolist()
        known = None if math.isnan(residual) else residual
        return cls(y, mask, maps, Units(scale, sigma, low, high, numbers, known))


class RecordedKSpace(MeasuredData):
    """Slices of recorded Cartesian k-space, without truth; only the residual and the cost are reported.

    Files are fastMRI's HDF5 (``kspace`` (slices, H, W) or (slices, coils, H, W), complex; ``mask`` (W,) or (H, W) and
    ``ismrmrd_header``, where they are there) or ISMRMRD's, in the conventions of `datamodules.kspace_files`. Slice 7 of
    ``name.h5`` has the id ``name/slice_007``.

    An over-sampled read-out is cut to the header's reconSpace, in image space, as fastMRI does; the width stays that of
    k-space. Measured is what the mask says and k-space holds. Every slice has its own scale (the largest magnitude
    of its zero-filled image becomes 1) and its own noise level, which its records keep; so a batch is one slice.

    Args:
        root: the folder, or a file.
        key: of the k-space in fastMRI's files.
        mask: a .npy file (W,) or (H, W) of 0 and 1 instead of the file's.
        undersampling: keep but the columns that this family's mask has, drawn for each slice.
        sensitivities: a .npy file (coils, H, W), or (slices, coils, H, W) for one file; None: those in the file (key
            `SENSITIVITIES`), or else ESPIRiT's estimate from what is measured in the middle of k-space.
        normalise: divide given sensitivities by their root sum of squares.
        sigma: noise level of the real and of the imaginary part, in the scanner's units; None: that of the noise scans
            of the file, or else of the corners of k-space.
        seed: the run's seed, for masks and samples.
        batch_size: has no effect, see above.
        num_workers: processes that read.
        limit: only the first so many slices.

    Raises:
        UserError: if a number is out of range; naming file and key, for a slice that cannot be used.
    """

    has_truth = False

    def __init__(
        self,
        root: Path,
        key: str = "kspace",
        mask: Path | None = None,
        undersampling: CartesianMRI | None = None,
        sensitivities: Path | None = None,
        normalise: bool = False,
        sigma: float | None = None,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        if sigma is not None:
            real("RecordedKSpace", "sigma", sigma, above=0, smallest=0)
        if undersampling is not None and (undersampling.num_coils > 1 or undersampling.path is not None):
            raise UserError(
                "RecordedKSpace: undersampling draws columns, the coils are the file's: leave them out of it"
            )
        # every slice's operator and noise law are its own, see `collate` and `measure`
        super().__init__(undersampling or CartesianMRI(), GaussianNoise(), seed, batch_size, num_workers, limit)
        self.root, self.key, self.undersampling, self.normalise, self.sigma = root, key, undersampling, normalise, sigma
        self.mask = None if mask is None else (read_array(Path(mask), "RecordedKSpace: mask"), f"mask {shown(mask)}")
        self.sensitivities = None
        if sensitivities is not None:
            what = "RecordedKSpace: sensitivities"
            self.sensitivities = read_array(Path(sensitivities), what), f"{what} {shown(sensitivities)}"
        self.places: dict[str, tuple[Path, int, int]] = {}
        self.unusable: dict[str, str] = {}
        self.told = False

    def list_ids(self) -> list[str]:
        self.places, self.unusable = {}, {}
        self.listing = list_files(Path(self.root), {*VOLUMES, ISMRMRD}, "k-space")
        for name, path in self.listing.files.items():
            if not isinstance(path, Path):
                raise UserError(f"{path}: HDF5 files are not read from a zip, unpack it")
            try:
                count = count_slices(path, self.key)
                self.places |= {f"{name}/slice_{number:03d}": (path, number, count) for number in range(count)}
            except UserError as error:  # it costs itself, and not the run
                self.unusable[name] = str(error)
        return [*self.places, *self.unusable]

    def read(self, image_id: str) -> Tensor:
        if image_id in self.unusable:
            raise UserError(self.unusable[image_id])
        path, number, _ = self.places[image_id]
        return self.prepared(read_slice(path, self.key, number), image_id).packed()

    def prepared(self, raw: RawSlice, image_id: str) -> Slice:
        """A slice with mask, sensitivities, scale and noise level.

        Raises:
            UserError: naming file, key and slice.
        """
        path, number, count = self.places[image_id]
        name = f"{shown(path)}: {self.key!r}, slice {number}"
        kspace = torch.from_numpy(raw.kspace)
        _check_numbers(kspace, name)
        check_centre(energy_of(kspace), name)
        mask = self._measured(raw, kspace, image_id, name)
        kspace, mask = cropped_readout(kspace, mask, raw.layout.rows)
        y = kspace * mask
        try:
            level = self._level(raw, y, mask)
            maps = self._maps(raw, y, mask, number, count)
            residual = None if maps is None else checked_residual(maps, y, mask, level.sigma)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if level.signal:
            logging.getLogger(__name__).warning("%s: the corners of k-space hold signal, sigma is too large", name)
        image = centred_ifft(y[None])[0]
        seen = torch.ones_like(image) if maps is None else maps
        scale = float((seen.conj() * image).sum(dim=0).abs().max())
        if scale == 0:
            raise UserError(f"{name}: nothing that is measured is seen by the coils")
        if not (SINGLE.tiny <= min(scale, level.low) and max(scale, level.high) <= SINGLE.max):
            raise UserError(
                f"{name}: an image up to {scale:.3g} with noise of {level.sigma:.3g} is beyond single precision: "
                "multiply k-space by a constant"
            )
        return Slice(
            to_channels(y[None] / scale)[0].float(),
            mask.float(),
            None if maps is None else to_channels(seen[None])[0].float(),
            Units(scale, level.sigma, level.low, level.high, level.numbers, residual),
        )

    def _measured(self, raw: RawSlice, kspace: Tensor, image_id: str, name: str) -> Tensor:
        """Which numbers of k-space are measured, (H, W)."""
        height, width = kspace.shape[-2:]
        measured = nonzero_lines(kspace)
        if raw.layout.columns == width:  # a header of other k-space says nothing about these columns
            columns = torch.zeros(width, dtype=torch.bool)
            columns[raw.layout.first : raw.layout.last] = True
            measured = measured & columns
        given = self.mask if self.mask is not None else None if raw.mask is None else (raw.mask, "'mask'")
        if given is not None:
            measured = measured & mask_of(*given, (height, width), name)
        if self.undersampling is not None:
            drawn = self.undersampling.realise((2, height, width), [stream(self.seed, image_id, -1, "operator")])
            measured = measured & drawn.mask[0, 0].bool()
        if not measured.any():
            raise UserError(f"{name}: the mask leaves nothing that is measured")
        return measured

    def _level(self, raw: RawSlice, y: Tensor, mask: Tensor) -> NoiseLevel:
        if self.sigma is not None:
            return NoiseLevel(self.sigma, self.sigma, self.sigma, 0)
        return corner_noise(y, mask) if raw.noise is None else noise_level(raw.noise)

    def _maps(self, raw: RawSlice, y: Tensor, mask: Tensor, number: int, count: int) -> Tensor | None:
        """Sensitivities (coils, H, W) of slice ``number`` of ``count``; None: one coil, and none are given."""
        if self.sensitivities is not None:
            values, name = self.sensitivities
            values = values[number] if values.ndim == 4 and len(values) == count else values
            return self._given(values, name, tuple(y.shape), raw.kspace.shape)
        if raw.sensitivities is not None:
            return self._given(raw.sensitivities, f"{SENSITIVITIES!r}", tuple(y.shape), raw.kspace.shape)
        return None if len(y) == 1 else estimated_sensitivities(y, calibration_width(mask))

    def _given(self, values: np.ndarray, name: str, shape: tuple[int, ...], uncut: tuple[int, ...]) -> Tensor:
        """Given sensitivities of k-space (coils, H, W), or of what it was before its read-out was cut."""
        if values.shape[1:] == uncut[1:]:
            top = (uncut[1] - shape[1]) // 2
            values = values[:, top : top + shape[1]]
        if values.shape != shape:
            raise UserError(f"{name} are {list(values.shape)}, k-space (coils, H, W) is {list(shape)}")
        return checked_sensitivities(values, name, self.normalise)

    def parts(self, items: list[Item | None]) -> list[CPUBatch]:
        """A batch for each slice."""
        return [batch for item in items for batch in super(RecordedKSpace, self).parts([item])]

    def collate(self, ids: list[str], items: Tensor) -> CPUBatch:
        found = Slice.unpacked(items[0])
        mask, shape = found.mask[None, None], (2, *found.mask.shape)
        operator = UndersampledFourier(mask, shape)
        if found.sensitivities is not None:
            maps = torch.view_as_real(to_complex(found.sensitivities[None]))
            operator = MultiCoilFourier(mask, maps, shape)
        return CPUBatch(ids, operator, y=found.y[None], units={ids[0]: asdict(found.units)})

    def measure(self, batch: CPUBatch) -> Measurement:
        assert batch.y is not None
        assert batch.operator is not None
        known: dict[str, Any] = dict(batch.units[batch.ids[0]])
        units = Units(**known)
        if not self.told:
            self.told = True
            logging.getLogger(__name__).warning("%s: %s", batch.ids[0], units.told())
        return Measurement(batch.y, batch.operator, GaussianNoise(units.sigma / units.scale))


def _check_numbers(kspace: Tensor, name: str) -> None:
    """Raises:
    UserError: if k-space (coils, H, W) has a number that is not finite, or a coil that has nothing but zeros.
    """
    whole(name, "coils", len(kspace), 1, MOST_COILS)
    for side in kspace.shape[1:]:
        whole(name, "side", side, LEAST_SIDE, MOST_SIDE)
    bad = ~torch.isfinite(kspace)
    if bad.any():
        places = {kind: bad.any(dim=0).any(dim=dim).nonzero().flatten() for dim, kind in ((1, "rows"), (0, "columns"))}
        kind = min(places, key=lambda one: len(places[one]))
        shown_places = ", ".join(map(str, places[kind].tolist()[:4])) + (", ..." if len(places[kind]) > 4 else "")
        raise UserError(f"{name} has NaN or infinity in {len(places[kind])} {kind} ({shown_places})")
    silent = (~kspace.abs().flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if silent:
        what = "is" if len(silent) == 1 else "are"
        numbers = ", ".join(map(str, silent[:8]))
        raise UserError(f"{name}: coil {numbers} of {len(kspace)} {what} all zeros: leave it out of the file")


def nonzero_lines(kspace: Tensor) -> Tensor:
    """Which numbers of k-space (coils, H, W) are measured if that is not said, (H, W).

    The columns that hold anything, if hardly a number in them is zero (`FULL`); otherwise the numbers themselves.
    """
    seen = energy_of(kspace) != 0
    columns = seen.any(dim=0).expand_as(seen)
    return columns if seen[columns].float().mean() >= FULL else seen


def mask_of(values: np.ndarray, name: str, shape: tuple[int, int], where: str) -> Tensor:
    """A mask as it was given, (W,) with axes of length 1 or (H, W), as (H, W).

    Raises:
        UserError: naming it, if it has another shape or other numbers than 0 and 1.
    """
    if values.size == max(values.shape, default=0) == shape[1]:
        values = values.reshape(1, -1)
    if values.shape not in ((1, shape[1]), shape):
        raise UserError(f"{where} is {shape[0]}x{shape[1]}, {name} has shape {values.shape}: it must be (W,) or (H, W)")
    if not np.isin(values, (0, 1)).all():
        raise UserError(f"{where}: {name} must hold 0 and 1")
    return torch.from_numpy(values.astype(bool)).expand(shape)


def cropped_readout(kspace: Tensor, mask: Tensor, rows: int | None) -> tuple[Tensor, Tensor]:
    """k-space (coils, H, W) and mask (H, W) of the image's middle ``rows``, H along the read-out.

    Exact, as each column is measured as a whole, and white noise stays white and as large: both transforms are
    orthonormal. Where single numbers of columns are missing, or there is nothing to cut, both stay as they are.
    """
    height = len(mask)
    if rows is None or not 0 < rows < height or not (mask == mask[:1]).all():
        return kspace, mask
    top = (height - rows) // 2
    whole_columns = centred_ifft(kspace * mask)  # columns that are missing stay so: the cut is along the others
    return centred_fft(whole_columns[..., top : top + rows, :]) * mask[:rows], mask[:rows]


def checked_residual(maps: Tensor, y: Tensor, mask: Tensor, sigma: float) -> float | None:
    """The projection residual of sensitivities, as `Units` has it.

    Args:
        maps, y: (coils, H, W).
        mask: True = measured, (H, W).
        sigma: noise level of y.

    Raises:
        UserError: if it is more than `WORST_RESIDUAL` beyond noise.
    """
    width = calibration_width(mask)
    if width < LEAST_CALIBRATION:
        return None
    residual = projection_residual(maps, y, width)
    noise = 2 * len(y) * width**2 * sigma**2 / _middle_energy(y, width)
    if max(residual**2 - noise, 0) ** 0.5 > WORST_RESIDUAL:
        raise UserError(
            f"the sensitivities leave {residual:.2f} of the middle of k-space unexplained, noise would "
            f"{noise**0.5:.2f}: they are of another scan, or turned or mirrored"
        )
    return residual


def _middle_energy(kspace: Tensor, width: int) -> float:
    top, left = (size // 2 - width // 2 for size in kspace.shape[-2:])
    return float(energy_of(kspace)[top : top + width, left : left + width].sum())
