"""Complex images for MRI: phantoms, and slices from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageData
from datamodules.training import ImageSet
from posterior.errors import UserError
from posterior.images import list_images, load_image
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily
from posterior.operators.mri import centred_ifft, root_sum_of_squares
from posterior.random import stream

Kind = Literal["ellipses", "shepp_logan"]


def _extra(name: str, needed_by: str) -> Any:
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
        transform = _extra("skimage.transform", "a phantom")
        picture = _extra("skimage.data", "a phantom").shepp_logan_phantom()
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
    draw = _extra("skimage.draw", "a phantom")
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


class Phantoms(ImageData):
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
        UserError: if a number is out of range or scikit-image is not installed.
    """

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
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        _check_phantoms("Phantoms", size, start, count, phase)
        self.size, self.start, self.count, self.kind, self.phase = size, start, count, kind, phase

    def list_ids(self) -> list[str]:
        return [f"phantom_{index:06d}" for index in range(self.start, self.start + self.count)]

    def read(self, image_id: str) -> Tensor:
        return draw_phantom(int(image_id.removeprefix("phantom_")), self.size, self.kind, self.phase)


class PhantomImages(ImageSet):
    """The same phantoms for `fit`, drawn when they are asked for.

    Args:
        size: side in pixels, >= 8.
        start: first phantom, >= 0: give training and validation other ones.
        count: number of phantoms, >= 1.
        kind: ``ellipses`` or ``shepp_logan``.
        phase: largest phase in radians, >= 0.

    Raises:
        UserError: if a number is out of range or scikit-image is not installed.
    """

    def __init__(
        self, size: int = 64, start: int = 0, count: int = 10000, kind: Kind = "ellipses", phase: float = 1.0
    ) -> None:
        _check_phantoms("PhantomImages", size, start, count, phase)
        self.size, self.start, self.count, self.kind, self.phase = size, start, count, kind, phase

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Tensor:
        return draw_phantom(self.start + index, self.size, self.kind, self.phase)

    def all(self) -> Tensor:
        """All of them, (count, 2, size, size)."""
        return torch.stack([self.image(index) for index in range(self.count)])


def _check_phantoms(who: str, size: int, start: int, count: int, phase: float) -> None:
    if size < 8 or start < 0 or count < 1 or not phase >= 0:
        raise UserError(
            f"{who}: needs size >= 8, start >= 0, count >= 1, phase >= 0, got {size}, {start}, {count}, {phase}"
        )
    _extra("skimage", who)


class MRISlices(ImageData):
    """Complex slices from a folder: fastMRI's HDF5 files, or pictures of magnitudes (whose imaginary part is 0).

    A slice of ``name.h5`` has the id ``name/slice_007``; a picture its relative path without extension. Each slice is
    cut to its central square and divided by its largest magnitude.

    HDF5: ``key`` holds either magnitudes (slices, H, W), such as fastMRI's ``reconstruction_esc`` and
    ``reconstruction_rss``, or k-space: (slices, H, W), which becomes a complex image, or (slices, coils, H, W), which
    becomes the root sum of squares of its coil images.

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
        if crop is not None and crop < 8:
            raise UserError(f"MRISlices: crop must be >= 8 pixels, got {crop}")
        self.root, self.key, self.crop = Path(root), key, crop
        self.places: dict[str, tuple[Path, int]] = {}
        self.pictures: dict[str, Any] = {}

    def list_ids(self) -> list[str]:
        if not self.root.is_dir():
            raise UserError(f"folder {self.root} does not exist")
        self.places = {}
        for path in sorted(p for p in self.root.rglob("*") if p.suffix in (".h5", ".hdf5")):
            name = path.relative_to(self.root).with_suffix("").as_posix()
            count = self._dataset(path, lambda data: data.shape[0])
            self.places |= {f"{name}/slice_{number:03d}": (path, number) for number in range(count)}
        try:
            self.pictures = {} if self.places else dict(list_images(self.root))
        except UserError as error:
            raise UserError(f"{self.root} holds neither HDF5 files (.h5, .hdf5) nor pictures ({error})") from error
        return sorted([*self.places, *self.pictures])

    def _dataset(self, path: Path, read: Any) -> Any:
        h5py = _extra("h5py", "MRISlices")
        try:
            with h5py.File(path, "r") as file:
                if self.key not in file:
                    raise UserError(f"{path} has no {self.key!r}; it has {', '.join(sorted(file)) or 'nothing'}")
                data = file[self.key]
                kind = getattr(data, "dtype", np.dtype("O")).kind
                if getattr(data, "ndim", 0) not in ((3, 4) if kind == "c" else (3,)) or kind not in "cf":
                    found = f"{getattr(data, 'dtype', 'a group')}{list(getattr(data, 'shape', []))}"
                    raise UserError(
                        f"{path}: {self.key!r} must be k-space (slices, H, W) or (slices, coils, H, W), complex, or "
                        f"magnitudes (slices, H, W), it is {found}"
                    )
                return read(data)
        except OSError as error:
            raise UserError(f"{path} is not a readable HDF5 file ({error})") from error

    def read(self, image_id: str) -> Tensor:
        if image_id in self.pictures:
            image = (load_image(self.pictures[image_id]).mean(dim=0) + 1) / 2
            name, z = str(self.pictures[image_id]), torch.complex(image, torch.zeros_like(image))
        else:
            path, number = self.places[image_id]
            values = torch.from_numpy(np.asarray(self._dataset(path, lambda data: data[number])))
            name = f"{path}, slice {number}"
            if values.is_complex():
                coils = centred_ifft(values.to(torch.complex64).reshape(1, -1, *values.shape[-2:]))
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
