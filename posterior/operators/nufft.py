"""MRI off the grid: k-space of complex images along radial, spiral or given trajectories."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from posterior.checks import MOST_SIDE, choice, length, real, whole
from posterior.errors import UserError
from posterior.operators.base import LinearOperator, OperatorFamily
from posterior.operators.coils import checked_sensitivities
from posterior.operators.mri import centred_fft, log_view, root_sum_of_squares, to_channels, to_complex
from posterior.operators.tomography import Unit
from posterior.reading import read_array, shown

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
"""111.25 degrees: the angle between spokes of Winkelmann et al., IEEE Trans. Med. Imaging 26:68-76 (2007)."""
FINER = 2
"""Points of the gridding's grid over pixels, in each direction."""
WIDTH = 6
"""Of its kernel, in points of that grid."""
MOST_POINTS = 4_000_000
"""Samples of k-space: gridding takes 1 kB for each."""
BEYOND = 1e-4
"""How far a coordinate may be beyond pi, for rounding."""
FrequencyUnit = Literal["radians", "cycles", "grid"]


class Trajectory(ABC):
    """Where k-space is sampled."""

    @abstractmethod
    def points(self, height: int, width: int) -> np.ndarray:
        """Spatial frequencies (M, 2) float64 along rows and columns, radians a pixel, in [-pi, pi].

        Raises:
            UserError: if they are not.
        """


@dataclass(frozen=True)
class Radial(Trajectory):
    """Spokes through the middle of k-space: frequencies r (sin a, cos a), r = -pi to pi in equal steps, without pi.

    Args:
        num_spokes: >= 1.
        num_samples: of a spoke, >= 2; None: twice the longer side of the image.
        angles: a of each spoke, from the columns' axis to the rows'; None: multiples of the golden angle (`GOLDEN`).
        unit: of the angles; must be said if one of them is beyond 2 pi.

    Raises:
        UserError: if a number is out of range, the unit is another, or the angles are not one for each spoke, not
            finite, or beyond 2 pi without a unit, as degrees are.
    """

    num_spokes: int = 32
    num_samples: int | None = None
    angles: list[float] | None = None
    unit: Unit | None = None

    def __post_init__(self) -> None:
        whole("Radial", "num_spokes", self.num_spokes, 1, MOST_POINTS)
        if self.num_samples is not None:
            whole("Radial", "num_samples", self.num_samples, 2, MOST_SIDE)
        if self.unit is not None:
            choice("Radial", "unit", self.unit, Unit)
        if self.angles is None:
            return
        length("Radial", "angles", self.angles, self.num_spokes, self.num_spokes)
        for angle in self.angles:
            real("Radial", "angles", angle)
        largest = max(map(abs, self.angles))
        if self.unit is None and largest > 2 * math.pi:
            raise UserError(
                f"Radial: angles reach {largest:.4g}, more than 2 pi: say unit: degrees, or unit: radians if they are"
            )

    def points(self, height: int, width: int) -> np.ndarray:
        angles = GOLDEN * np.arange(self.num_spokes) if self.angles is None else np.asarray(self.angles, dtype=float)
        if self.unit == "degrees":
            angles = np.deg2rad(angles)
        count = self.num_samples or 2 * max(height, width)
        whole("Radial", "num_spokes * num_samples", len(angles) * count, 1, MOST_POINTS)
        radii = math.pi * (2 * np.arange(count) / count - 1)
        directions = np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return (radii[None, :, None] * directions[:, None]).reshape(-1, 2)


@dataclass(frozen=True)
class Spiral(Trajectory):
    """Archimedean arms from the middle: pi t (sin a, cos a), a = 2 pi (turns t + arm / num_arms).

    t goes from 0 to 1 in equal steps, without 1.

    Args:
        num_arms: >= 1.
        num_samples: of an arm, >= 2.
        turns: of an arm, > 0. num_arms * turns of half the longer side leave no gap.

    Raises:
        UserError: if a number is out of range.
    """

    num_arms: int = 8
    num_samples: int = 512
    turns: float = 4.0

    def __post_init__(self) -> None:
        whole("Spiral", "num_arms", self.num_arms, 1, MOST_POINTS)
        whole("Spiral", "num_samples", self.num_samples, 2, MOST_POINTS)
        whole("Spiral", "num_arms * num_samples", self.num_arms * self.num_samples, 2, MOST_POINTS)
        real("Spiral", "turns", self.turns, above=0, most=MOST_SIDE)

    def points(self, height: int, width: int) -> np.ndarray:
        t = np.arange(self.num_samples) / self.num_samples
        angles = 2 * math.pi * (self.turns * t + np.arange(self.num_arms)[:, None] / self.num_arms)
        return (math.pi * t[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=-1)).reshape(-1, 2)


@dataclass(frozen=True)
class GivenTrajectory(Trajectory):
    """Frequencies from a file, in the order in which y has them.

    Args:
        path: a .npy file (..., 2) of real numbers, frequencies along rows and columns.
        unit: ``radians`` a pixel (in [-pi, pi]), ``cycles`` a pixel ([-1/2, 1/2]), or ``grid``: cycles a field of
            view ([-N/2, N/2], N pixels).

    Raises:
        UserError: if the unit is another; naming the file, if it is bad; on realisation, if a frequency is beyond what
            pixels can show.
    """

    path: Path
    unit: FrequencyUnit

    def __post_init__(self) -> None:
        choice("GivenTrajectory", "unit", self.unit, FrequencyUnit)
        self._read()

    def _read(self) -> np.ndarray:
        values = read_array(Path(self.path), "GivenTrajectory:")
        if values.ndim < 2 or values.shape[-1] != 2 or values.dtype.kind != "f" or not values.size:
            raise UserError(
                f"GivenTrajectory: {shown(self.path)} must be real numbers (..., 2), frequencies along rows and "
                f"columns, it is {values.dtype}{list(values.shape)}"
            )
        if not np.isfinite(values).all():
            raise UserError(f"GivenTrajectory: {shown(self.path)} holds NaN or infinity")
        return values.reshape(-1, 2).astype(np.float64)

    def points(self, height: int, width: int) -> np.ndarray:
        scale = {"radians": 1.0, "cycles": 2 * math.pi, "grid": 2 * math.pi / np.array([height, width])}[self.unit]
        points = self._read() * scale
        whole("GivenTrajectory", "frequencies", len(points), 1, MOST_POINTS)
        if (largest := np.abs(points).max()) > math.pi * (1 + BEYOND):
            raise UserError(
                f"GivenTrajectory: {shown(self.path)} reaches {largest / math.pi:.3g} pi radians a pixel as unit: "
                f"{self.unit}, a {height}x{width} image has frequencies up to pi: is it another unit?"
            )
        return points


class NonuniformFourier(LinearOperator):
    """y_cm = sum_r S_c(r) x(r) exp(-i k_m . r) / sqrt(H W), r counted from the middle pixel (H // 2, W // 2).

    On the grid of frequencies this is `posterior.operators.mri.centred_fft`. Computed by gridding: the image divided by
    the transform of a Kaiser-Bessel kernel, a Fourier transform on a grid `FINER` times as fine, and the kernel's
    weighted sum over the `WIDTH` x `WIDTH` nearest frequencies. Relative error about 1e-5; the adjoint is the transpose
    of each step.

    Source: Beatty, Nishimura and Pauly, IEEE Trans. Med. Imaging 24:799-808 (2005), equations 4 and 5.

    Args:
        points: k, (M, 2) float64, radians a pixel.
        image_shape: (2, H, W), real and imaginary part.
        sensitivities: real and imaginary parts of S, (1, coils, H, W, 2), sum_c |S_c|^2 <= 1; None: one coil, S = 1.
    """

    def __init__(self, points: Tensor, image_shape: Sequence[int], sensitivities: Tensor | None = None) -> None:
        super().__init__(image_shape)
        self.grid = tuple(FINER * size for size in self.image_shape[1:])
        weights = _interpolation(points, self.grid)
        self.gather, self.spread = _by_rows(weights), _by_rows(weights.t())
        scale = math.prod(self.image_shape[1:]) ** -0.5
        factors = [1 / _kernel_transform(size, FINER * size) for size in self.image_shape[1:]]
        self.factor = (scale * factors[0][:, None] * factors[1]).float()
        self.sensitivities = sensitivities

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """(2 coils, M): real and imaginary part of each coil in turn."""
        return (2 * (1 if self.sensitivities is None else self.sensitivities.shape[1]), self.gather.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        z = to_complex(x)
        if self.sensitivities is not None:
            z = torch.view_as_complex(self.sensitivities) * z
        (height, width), (high, wide) = z.shape[-2:], self.grid
        padded = functional.pad(self.factor * z, (0, wide - width, 0, high - height))
        frequencies = torch.fft.fft2(padded.roll((-(height // 2), -(width // 2)), dims=(-2, -1)))
        return to_channels(_weighted(self.gather, frequencies.flatten(2)))

    def adjoint(self, v: Tensor) -> Tensor:
        frequencies = _weighted(self.spread, to_complex(v)).unflatten(-1, self.grid)
        height, width = self.image_shape[1:]
        padded = torch.fft.ifft2(frequencies, norm="forward").roll((height // 2, width // 2), dims=(-2, -1))
        z = self.factor * padded[..., :height, :width]
        if self.sensitivities is not None:
            z = (torch.view_as_complex(self.sensitivities).conj() * z).sum(dim=1, keepdim=True)
        return to_channels(z)

    def view(self, y: Tensor) -> Tensor:
        """k-space of A^T y on the grid, on a log scale, (B, 1, H, W)."""
        return log_view(root_sum_of_squares(centred_fft(to_complex(self.adjoint(y)))))


def _weighted(weights: Tensor, z: Tensor) -> Tensor:
    """Real sparse weights (m, n) times complex numbers (B, c, n): (B, c, m)."""
    columns = torch.view_as_real(z).permute(2, 0, 1, 3)
    found = (weights @ columns.flatten(1)).unflatten(1, columns.shape[1:])
    return torch.view_as_complex(found.permute(1, 2, 0, 3).contiguous())


def _by_rows(weights: Tensor) -> Tensor:
    """A sparse matrix in the layout whose products are the faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says that the layout is in beta
        return weights.to_sparse_csr()


def _beta() -> float:
    """The kernel's shape, equation 5 of Beatty et al."""
    return math.pi * math.sqrt((WIDTH / FINER * (FINER - 0.5)) ** 2 - 0.8)


def _interpolation(points: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The kernel at the nearest frequencies of a grid (height, width) that repeats itself: sparse (M, height width)."""
    index, weights = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.float64)
    for at, size in zip(points.T * torch.tensor(grid)[:, None] / (2 * math.pi), grid, strict=True):
        near = (at - WIDTH / 2).ceil().long()[:, None] + torch.arange(WIDTH)
        inside = (1 - (2 * (at[:, None] - near) / WIDTH) ** 2).clamp_min(0)
        index = (index[:, :, None] * size + (near % size)[:, None]).flatten(1)
        weights = (weights[:, :, None] * torch.special.i0(_beta() * inside.sqrt())[:, None] / WIDTH).flatten(1)
    rows = torch.arange(len(points))[:, None].expand_as(index)
    place = torch.stack([rows.flatten(), index.flatten()])
    shape = (len(points), math.prod(grid))
    return torch.sparse_coo_tensor(place, weights.flatten().float(), shape, check_invariants=True).coalesce()


def _kernel_transform(size: int, grid: int) -> Tensor:
    """The kernel's Fourier transform at the pixels (size,) about the middle one, equation 4 of Beatty et al."""
    place = math.pi * WIDTH * (torch.arange(size, dtype=torch.float64) - size // 2) / grid
    root = (_beta() ** 2 - place**2).sqrt()  # place is at most pi WIDTH / 4, less than beta
    return root.sinh() / root


class NonCartesianMRI(OperatorFamily):
    """MRI along a trajectory, of complex images (2, H, W); the same for every image.

    ||A|| is not bounded by 1: where samples lie densely, as in the middle of spokes, a frequency is measured often.

    Args:
        trajectory: where k-space is sampled.
        sensitivities: of several coils, a .npy file (coils, H, W), complex, root sum of squares 1.
        normalise: divide them by it.

    Raises:
        UserError: if a file is bad; on realisation, if the images have not two channels, or the sensitivities or the
            trajectory do not fit them.
    """

    def __init__(self, trajectory: Trajectory, sensitivities: Path | None = None, normalise: bool = False) -> None:
        self.trajectory, self.path, self.maps = trajectory, sensitivities, None
        if sensitivities is not None:
            what = "NonCartesianMRI: sensitivities"
            values = read_array(Path(sensitivities), what)
            self.maps = checked_sensitivities(values, f"{what} {shown(sensitivities)}", normalise)

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> NonuniformFourier:
        channels, height, width = image_shape
        if channels != 2:
            raise UserError(f"NonCartesianMRI: images must have 2 channels (real, imaginary), got {tuple(image_shape)}")
        if self.maps is not None and self.maps.shape[1:] != (height, width):
            raise UserError(f"NonCartesianMRI: {self.path} is {tuple(self.maps.shape)}, the image {height}x{width}")
        points = torch.from_numpy(self.trajectory.points(height, width))
        maps = None if self.maps is None else torch.view_as_real(self.maps.to(torch.complex64))[None]
        return NonuniformFourier(points, image_shape, maps)
