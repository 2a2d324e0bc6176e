"""Complex images for MRI: phantoms, and slices from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageData
from datamodules.dicom import ENDINGS, read_dicom
from datamodules.drawn import DrawnData
from datamodules.training import DrawnImages
from posterior.checks import MOST_SIDE, choice, real, whole
from posterior.errors import UserError
from posterior.images import EXTENSIONS, load_image
from posterior.listing import File, NothingFound, list_files
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily
from posterior.operators.mri import centred_ifft, root_sum_of_squares
from posterior.random import stream
from posterior.reading import open_dataset, shown

VOLUMES = {".h5", ".hdf5"}
LOPSIDED = 30
"""Ratio of energies by which k-space is told to have its middle elsewhere; an image of noise has about 1, others far
less."""
MOST_HOLES = 0.01
"""Zeros between numbers of k-space, as a share of these: receivers give none, and a phantom's transform hardly any."""
LEAST_REACH = 7 / 8
"""Highest measured frequency on one side of the middle over that on the other, below which k-space is partial Fourier:
scanners leave out an eighth of the lines, which gives 3/4, or more; padding gives 1."""
Kind = Literal["ellipses", "shepp_logan"]


def needed(name: str, needed_by: str) -> Any:
    """A module of the extra ``mri``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return __import__(name, fromlist=["*"])
    except ImportError as error:
        raise UserError(f"{needed_by} needs {name}: pip install 'posterior-sampling[mri]'") from error


def draw_phantom(index: int, size: int, kind: Kind = "ellipses", phase: float = 1.0) -> Tensor:
    """Phantom number ``index``, the same on every machine: (2, size, size), real and imaginary part, magnitude <= 1.

    ``ellipses``: a head (an ellipse) that holds 4 to 9 smaller ones, of random places, turns and grey values, drawn by
    scikit-image at twice the size and averaged. ``shepp_logan``: scikit-image's phantom, turned by up to 20 degrees and
    scaled by 0.85 to 1. Both have a smooth phase, a random quadratic of at most ``phase`` radians.

    Raises:
        UserError: if scikit-image is not installed.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=stream(0, f"phantom/{index}", -1, "render"))))
    if kind == "ellipses":
        magnitude = _ellipses(2 * size, rng)
    else:
        transform = needed("skimage.transform", "a phantom")
        picture = needed("skimage.data", "a phantom").shepp_logan_phantom()
        scale, angle = rng.uniform(0.85, 1.0), rng.uniform(-20, 20)
        turned = transform.rotate(picture, angle)
        side = round(2 * size * scale / 2) * 2
        small = transform.resize(turned, (side, side), anti_aliasing=True)
        magnitude = np.pad(small, (2 * size - side) // 2)
    magnitude = magnitude.reshape(size, 2, size, 2).mean(axis=(1, 3)).clip(0, 1)
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    weights = rng.uniform(-1, 1, 6)
    surface = sum(w * term for w, term in zip(weights, (1, x, y, x * y, x**2, y**2), strict=True))
    angle_map = phase * surface / np.abs(weights).sum()
    complex_image = magnitude * np.exp(1j * angle_map)
    return torch.from_numpy(np.stack([complex_image.real, complex_image.imag]).astype(np.float32))


def _ellipses(side: int, rng: np.random.Generator) -> np.ndarray:
    draw = needed("skimage.draw", "a phantom")
    picture = np.zeros((side, side))
    head = np.array([rng.uniform(0.36, 0.46), rng.uniform(0.30, 0.42)]) * side
    turn = rng.uniform(-0.3, 0.3)
    picture[draw.ellipse(side / 2, side / 2, *head, shape=picture.shape, rotation=turn)] = rng.uniform(0.4, 0.7)
    inside = picture > 0
    for _ in range(rng.integers(4, 10)):
        radius, angle = np.sqrt(rng.uniform(0, 0.6)), rng.uniform(0, 2 * np.pi)
        centre = side / 2 + head * radius * np.array([np.sin(angle), np.cos(angle)])
        axes = rng.uniform(0.04, 0.18, 2) * side
        place = draw.ellipse(*centre, *axes, shape=picture.shape, rotation=rng.uniform(-np.pi, np.pi))
        picture[place] += rng.uniform(-0.3, 0.4)
    return np.where(inside, picture.clip(0.05, 1.0), 0.0)


class Phantoms(DrawnData):
    """Phantoms number ``start`` to ``start + count - 1`` as complex images (2, size, size); see `draw_phantom`.

    Args:
        operator: family of measurement operators, e.g. `posterior.operators.CartesianMRI`.
        likelihood: noise law; sigma_y is that of the real and of the imaginary part.
        size: side in pixels, >= 8.
        start: first phantom, >= 0.
        count: number of phantoms, >= 1.
        kind: ``ellipses`` or ``shepp_logan``.
        phase: largest phase in radians, >= 0.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that draw.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: if a number is out of range, the kind is another or scikit-image is not installed.
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
        phase: float = 1.0,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, size, start, count, seed, batch_size, num_workers, limit)
        _check_phantoms("Phantoms", kind, phase)
        self.kind, self.phase = kind, phase

    def draw(self, number: int) -> Tensor:
        return draw_phantom(number, self.size, self.kind, self.phase)


class PhantomImages(DrawnImages):
    """The same phantoms for `fit`, drawn when they are asked for.

    Args:
        size: side in pixels, >= 8.
        start: first phantom, >= 0: give training and validation other ones.
        count: number of phantoms, >= 1.
        kind: ``ellipses`` or ``shepp_logan``.
        phase: largest phase in radians, >= 0.

    Raises:
        UserError: if a number is out of range, the kind is another or scikit-image is not installed.
    """

    def __init__(
        self, size: int = 64, start: int = 0, count: int = 10000, kind: Kind = "ellipses", phase: float = 1.0
    ) -> None:
        super().__init__(size, start, count)
        _check_phantoms("PhantomImages", kind, phase)
        self.kind, self.phase = kind, phase

    def image(self, index: int) -> Tensor:
        return draw_phantom(self.start + index, self.size, self.kind, self.phase)


def _check_phantoms(who: str, kind: Kind, phase: float) -> None:
    """Check what decides a phantom beside its number, and that it can be drawn.

    Raises:
        UserError: if the kind is another, the phase out of range, or scikit-image, which draws phantoms, not installed.
    """
    choice(who, "kind", kind, Kind)
    real(who, "phase", phase, least=0, most=1000)
    needed("skimage", who)


class MRISlices(ImageData):
    """Complex slices from a folder: fastMRI's HDF5 files, or magnitudes (imaginary part 0) in pictures or DICOM.

    A DICOM file holds one MR slice; pydicom reads it: the extra ``ct``.

    A slice of ``name.h5`` has the id ``name/slice_007``; a picture its relative path without extension. Each slice is
    cut to its central square and divided by its largest magnitude.

    HDF5: ``key`` holds either magnitudes (slices, H, W), such as fastMRI's ``reconstruction_esc`` and
    ``reconstruction_rss``, or k-space: (slices, H, W), which becomes a complex image, or (slices, coils, H, W), which
    becomes the root sum of squares of its coil images. It must be fully sampled, its zero frequency in the middle.

    Args:
        root: the folder.
        operator: family of measurement operators.
        likelihood: noise law, in units of a slice's largest magnitude.
        key: data set within the HDF5 files.
        crop: side in pixels of the central square, or None: the largest.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that read.
        limit: only the first so many slices, for smoke runs.

    Raises:
        UserError: naming the folder or file that is missing, unreadable or holds something else.
    """

    def __init__(
        self,
        root: Path,
        operator: OperatorFamily,
        likelihood: Likelihood,
        key: str = "kspace",
        crop: int | None = None,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        if crop is not None:
            whole("MRISlices", "crop", crop, 8, MOST_SIDE)
        self.root, self.key, self.crop = Path(root), key, crop
        self.places: dict[str, tuple[Path, int]] = {}
        self.pictures: dict[str, File] = {}
        self.unusable: dict[str, str] = {}

    def list_ids(self) -> list[str]:
        self.places, self.pictures, self.unusable = {}, {}, {}
        try:
            self.listing = list_files(self.root, VOLUMES, "HDF5")
        except NothingFound:
            self.listing = list_files(self.root, {*VOLUMES, *EXTENSIONS, *ENDINGS}, "MRI slice")
            self.pictures = self.listing.files
            return list(self.pictures)
        for name, path in self.listing.files.items():
            if not isinstance(path, Path):
                raise UserError(f"{path}: HDF5 files are not read from a zip, unpack it")
            try:
                count = self._dataset(path, lambda data: data.shape[0])
                self.places |= {f"{name}/slice_{number:03d}": (path, number) for number in range(count)}
            except UserError as error:  # it costs itself, and not the run
                self.unusable[name] = str(error)
        return [*self.places, *self.unusable]

    def _dataset(self, path: Path, read: Any) -> Any:
        needed("h5py", "MRISlices")
        with open_dataset(path, self.key, "HDF5 file") as (file, data):
            kspace = data.dtype.kind == "c"
            if data.ndim not in ((3, 4) if kspace else (3,)) or data.dtype.kind not in "cf":
                raise UserError(
                    f"{shown(path)}: {self.key!r} must be k-space (slices, H, W) or (slices, coils, H, W), complex, or "
                    f"magnitudes (slices, H, W), it is {data.dtype}{list(data.shape)}"
                )
            if kspace:
                _check_mask(file.get("mask"), data.shape[-2:], path)
            return read(data)

    def read(self, image_id: str) -> Tensor:
        if image_id in self.unusable:
            raise UserError(self.unusable[image_id])
        if image_id in self.pictures:
            image = _magnitude(self.pictures[image_id])
            name, z = shown(self.pictures[image_id]), torch.complex(image, torch.zeros_like(image))
        else:
            path, number = self.places[image_id]
            found = np.asarray(self._dataset(path, lambda data: data[number]))
            with np.errstate(over="ignore"):
                values = torch.from_numpy(found.astype(np.complex64 if found.dtype.kind == "c" else np.float32))
            name = f"{shown(path)}, slice {number}"
            if values.is_complex():
                _check_kspace(values, name)
                coils = centred_ifft(values.reshape(1, -1, *values.shape[-2:]))
                z = coils[0, 0] if values.ndim == 2 else root_sum_of_squares(coils)[0, 0].to(torch.complex64)
            else:
                z = values.to(torch.complex64)
        side = self.crop or min(z.shape)
        if min(z.shape) < side:
            raise UserError(f"{name} is {z.shape[0]}x{z.shape[1]}, smaller than the crop of {side}")
        top, left = ((length - side) // 2 for length in z.shape)
        z = z[top : top + side, left : left + side]
        peak = z.abs().max()
        if not torch.isfinite(peak) or peak == 0:
            raise UserError(f"{name} holds NaN, infinity or nothing but zeros")
        return torch.stack([z.real, z.imag]) / peak


def _magnitude(file: File) -> Tensor:
    """A picture of magnitudes, or an MR slice in a DICOM file, (H, W) float32 >= 0.

    Raises:
        UserError: naming the file, if it cannot be read or holds something else.
    """
    if Path(str(file)).suffix.lower() not in ENDINGS:
        return (load_image(file).mean(dim=0) + 1) / 2
    found = read_dicom(file, "MR", "MRISlices")
    image = found.pixels * (1.0 if found.slope is None else found.slope) + (found.offset or 0.0)
    if image.min() < 0:
        raise UserError(f"{shown(file)} has numbers below 0, which magnitudes have not: is it a phase?")
    return image


def _check_mask(mask: Any, shape: tuple[int, ...], path: Path) -> None:
    """Refuse files, such as those of fastMRI's test set, that say which lines of k-space (H, W) were measured, not all.

    A mask has an entry a line, or is one of whole lines written out, (..., H, W).

    Raises:
        UserError: naming the file.
    """
    if getattr(mask, "dtype", np.dtype("O")).kind not in "biuf":
        return
    if mask.size not in shape and mask.shape[-2:] != shape:
        return  # of something else
    kept = np.asarray(mask) != 0
    if mask.size not in shape:
        of_lines = (kept == kept[..., :1, :]).all() or (kept == kept[..., :1]).all()
        if not (of_lines and kept.any()):
            return  # of tissue, say
    if not kept.all():
        raise UserError(
            f"{shown(path)} is undersampled k-space (its 'mask' has zeros), which has no true image: take "
            "fully sampled files"
        )


def _check_kspace(kspace: Tensor, name: str) -> None:
    """Refuse k-space (H, W) or (coils, H, W) that gives no true image; only where that is unmistakable.

    Raises:
        UserError: naming the slice.
    """
    energy = energy_of(kspace)
    if told := _undersampled(energy != 0):
        raise UserError(f"{name} is undersampled k-space ({told}), which has no true image: take fully sampled files")
    check_centre(energy, name)


def energy_of(kspace: Tensor) -> Tensor:
    """|k|^2 of k-space (..., H, W), summed over the coils, (H, W) float64."""
    return kspace.to(torch.complex128).abs().square().reshape(-1, *kspace.shape[-2:]).sum(dim=0)


def _undersampled(seen: Tensor) -> str | None:
    """How k-space whose numbers differ from zero where ``seen`` (H, W) is undersampled, in words; None: it is not.

    Lines: rows, or columns, of nothing but zeros lie between others, or are more than half of them, or lie at one edge
    (`LEAST_REACH`). (Zeros at both edges alike are what scanners pad with.) Points: of what is left, more than one in a
    hundred is zero between others. The transform of a simulated box is neither (`_of_a_box`).
    """
    if not seen.any():
        return None
    rows, columns = seen.any(dim=1), seen.any(dim=0)
    missing = []
    for measured, lines in ((rows, "rows"), (columns, "columns")):
        place = measured.nonzero().flatten().tolist() or [0]
        zeros = int((~measured).sum())
        reach = sorted((len(measured) // 2 - place[0], place[-1] - len(measured) // 2))
        if not measured[place[0] : place[-1] + 1].all() or zeros > len(measured) / 2:
            missing.append(f"{zeros} of {len(measured)} {lines} are zero")
        elif reach[0] + 1 < LEAST_REACH * reach[1]:  # an even size has one frequency more on one side
            missing.append(f"{zeros} of {len(measured)} {lines} are zero, at one edge: partial Fourier")
    if len(missing) == 1 or (missing and not (_of_a_box(rows) and _of_a_box(columns))):
        return ", ".join(missing)
    seen = seen[rows][:, columns]
    holes, numbers = int((~seen & _between(seen, 0) & _between(seen, 1)).sum()), int(seen.sum())
    return f"{holes} zeros lie between {numbers} numbers" if holes > MOST_HOLES * numbers else None


def _of_a_box(measured: Tensor) -> bool:
    """Whether the zero lines are those of the transform of N / p equal pixels out of N: every p-th but the middle one.

    Masks leave out others: every p-th line is what they keep.
    """
    offsets = ((~measured).nonzero().flatten() - len(measured) // 2).tolist()
    spacing = min(map(abs, offsets), default=0)
    size = len(measured)
    return spacing > 0 and offsets == [k for k in range(-(size // 2), size - size // 2) if k and k % spacing == 0]


def _between(seen: Tensor, dim: int) -> Tensor:
    """Where something is seen both before and behind along a dimension."""
    before = seen.int().cummax(dim=dim).values
    behind = seen.int().flip(dim).cummax(dim=dim).values.flip(dim)
    return (before & behind).bool()


def check_centre(energy: Tensor, name: str) -> None:
    """Refuse k-space whose zero frequency is a corner or the middle of an edge: `LOPSIDED` times the middle's energy.

    Args:
        energy: of k-space, (H, W).
        name: of the slice.

    Raises:
        UserError: naming the slice.
    """
    height, width = energy.shape

    def around_middle(turned: Tensor) -> float:
        half = max(1, height // 16), max(1, width // 16)
        rows, columns = (slice(size // 2 - h, size // 2 + h + 1) for size, h in zip((height, width), half, strict=True))
        return float(turned[rows, columns].sum())

    middle = around_middle(energy)
    for dims, place in (((0, 1), "a corner"), ((0,), "the middle of an edge"), ((1,), "the middle of an edge")):
        if around_middle(torch.fft.fftshift(energy, dim=dims)) > LOPSIDED * middle:
            raise UserError(
                f"{name} has its zero frequency in {place}, not in the middle: apply fftshift to the k-space (axes "
                f"{', '.join(str(dim - 2) for dim in dims)})"
            )
