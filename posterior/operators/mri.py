"""Cartesian MRI: undersampled Fourier measurements of complex images, by one coil or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from posterior.checks import MOST_COILS, MOST_SIDE, choice, real, whole
from posterior.errors import UserError
from posterior.operators.base import MaskedOrthonormal, OperatorFamily, power_iteration_norm
from posterior.reading import read_array

Columns = Literal["random", "equispaced"]
LEAST_SENSITIVITY = 0.5
"""Of given maps, the largest root sum of squares over coils: about 1 where they are meant to be it."""


def to_complex(x: Tensor) -> Tensor:
    """Pairs of channels (B, 2 n, H, W), real and imaginary parts in turn, as complex numbers (B, n, H, W)."""
    return torch.complex(x[:, 0::2], x[:, 1::2])


def to_channels(z: Tensor) -> Tensor:
    """The inverse of `to_complex`."""
    return torch.stack([z.real, z.imag], dim=2).flatten(1, 2)


def centred_fft(z: Tensor) -> Tensor:
    """Orthonormal 2-D Fourier transform with the zero frequency in the middle (fastMRI's ``fft2c``)."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(z, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))


def centred_ifft(z: Tensor) -> Tensor:
    """The inverse of `centred_fft`, and its adjoint."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(z, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))


def root_sum_of_squares(z: Tensor) -> Tensor:
    """Magnitude of coil images or k-space (B, coils, H, W): sqrt(sum_c |z_c|^2), (B, 1, H, W)."""
    return z.abs().square().sum(dim=1, keepdim=True).sqrt()


def log_view(levels: Tensor) -> Tensor:
    """Magnitudes (B, 1, H, W) on a log scale in [-1, 1], from three decades below each image's maximum."""
    top = levels.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
    return 2 * ((levels / top).clamp_min(1e-3).log10() / 3 + 1) - 1


class UndersampledFourier(MaskedOrthonormal):
    """Some columns of the k-space of a complex image, seen by one coil: y = M F x.

    Args:
        mask: 1 = measured, (B, 1, 1, W).
        image_shape: (2, H, W), real and imaginary part.
    """

    def analyse(self, x: Tensor) -> Tensor:
        return to_channels(centred_fft(to_complex(x)))

    def synthesise(self, c: Tensor) -> Tensor:
        return to_channels(centred_ifft(to_complex(c)))

    def view(self, y: Tensor) -> Tensor:
        """Root sum of squares of k-space on a log scale, three decades below each image's maximum, (B, 1, H, W)."""
        return log_view(root_sum_of_squares(to_complex(y)))

    def parameters_view(self) -> Tensor:
        return (2 * self.mask - 1).expand(-1, 1, *self.image_shape[1:])


class MultiCoilFourier(UndersampledFourier):
    """The same seen by several coils: y_c = M F (S_c x).

    Args:
        mask: 1 = measured, (B, 1, 1, W).
        sensitivities: real and imaginary parts of S, (B, coils, H, W, 2), sum_c |S_c|^2 <= 1 everywhere.
        image_shape: (2, H, W).
    """

    per_image: ClassVar[tuple[str, ...]] = ("mask", "sensitivities")

    def __init__(self, mask: Tensor, sensitivities: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(mask, image_shape)
        self.sensitivities = sensitivities

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (2 * self.sensitivities.shape[1], *self.image_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(to_channels(torch.view_as_complex(self.sensitivities) * to_complex(x)))

    def adjoint(self, v: Tensor) -> Tensor:
        coils = torch.view_as_complex(self.sensitivities).conj() * to_complex(super().adjoint(v))
        return to_channels(coils.sum(dim=1, keepdim=True))

    def norm(self) -> Tensor:
        return power_iteration_norm(self, num_steps=2000, tolerance=1e-10)  # the largest values lie close together

    def diagonal(self) -> None:
        return None


def undersampling_mask(
    kind: Columns,
    width: int,
    acceleration: float,
    center_fraction: float,
    rng: np.random.RandomState | np.random.Generator,
) -> np.ndarray:
    """Which columns of k-space are measured, (W,), 0 or 1: fastMRI's masks (Zbontar et al., arXiv:1811.08839).

    round(W center_fraction) columns in the middle always; of the others, ``random`` keeps each with the probability
    that gives W / acceleration columns on average, ``equispaced`` takes every a-th from a random offset, a chosen so
    that about W / acceleration columns are measured in all (``EquiSpacedMaskFractionFunc``).

    Args:
        kind: which.
        width: columns.
        acceleration: > 1.
        center_fraction: in (0, 1 / acceleration).
        rng: draws one uniform number a column (random), or the offset (equispaced).
    """
    low = round(width * center_fraction)
    if kind == "random":
        probability = (width / acceleration - low) / (width - low)
        mask = (rng.uniform(size=width) < probability).astype(np.float32)
    else:
        adjusted = acceleration * (low - width) / (low * acceleration - width)
        last = round(adjusted)
        offset = int(rng.randint(0, last) if isinstance(rng, np.random.RandomState) else rng.integers(0, last))
        mask = np.zeros(width, dtype=np.float32)
        mask[np.around(np.arange(offset, width - 1, adjusted)).astype(int)] = 1
    start = (width - low + 1) // 2
    mask[start : start + low] = 1
    return mask


def simulated_coils(num_coils: int, height: int, width: int, turn: float, phases: Sequence[float]) -> np.ndarray:
    """Smooth sensitivities on a ring around the image, sum_c |S_c|^2 = 1, (coils, H, W) complex64.

    Each is a Gaussian of standard deviation 0.6 of the half side about a point just outside the field of view, with a
    phase that grows linearly towards it.

    Args:
        num_coils: how many.
        height, width: of the image.
        turn: of the ring, radians.
        phases: of each coil, radians.
    """
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    coils = []
    for number, phase in enumerate(phases):
        angle = turn + 2 * np.pi * number / num_coils
        centre = 1.2 * np.array([np.sin(angle), np.cos(angle)])
        distance2 = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
        towards = y * centre[0] + x * centre[1]
        coils.append(np.exp(-distance2 / (2 * 0.6**2)) * np.exp(1j * (phase + 0.5 * np.pi * towards)))
    stacked = np.stack(coils)
    return (stacked / np.sqrt((np.abs(stacked) ** 2).sum(axis=0))).astype(np.complex64)


class CartesianMRI(OperatorFamily):
    """Undersampled Cartesian MRI of complex images (2, H, W); the mask is drawn per image, as are simulated coils.

    Args:
        acceleration: > 1: about W / acceleration columns of k-space are measured.
        center_fraction: share of the columns that is always measured, in the middle, > 0 and < 1 / acceleration
            (fastMRI: 0.08 at 4, 0.04 at 8).
        mask: ``random`` or ``equispaced``, see `undersampling_mask`.
        num_coils: >= 1; with several, smooth sensitivities are simulated (`simulated_coils`).
        sensitivities: given ones instead, a .npy file (coils, H, W), complex; they are divided by the largest root sum
            of squares if that is above 1, and refused if it is below 0.5: y would be noise.

    Raises:
        UserError: if a number is out of range, the mask is another or the file is bad; on realisation, if the images
            have not two channels, or the sensitivities another size, or the centre has no column or all that the
            acceleration leaves.
    """

    random = True

    def __init__(
        self,
        acceleration: float = 4.0,
        center_fraction: float = 0.08,
        mask: Columns = "random",
        num_coils: int = 1,
        sensitivities: Path | None = None,
    ) -> None:
        real("CartesianMRI", "acceleration", acceleration, above=1, most=MOST_SIDE)
        real("CartesianMRI", "center_fraction", center_fraction, above=0, below=1 / acceleration)
        choice("CartesianMRI", "mask", mask, Columns)
        whole("CartesianMRI", "num_coils", num_coils, 1, MOST_COILS)
        self.acceleration, self.center_fraction, self.mask = acceleration, center_fraction, mask
        self.num_coils, self.path = num_coils, sensitivities
        self.given = None if sensitivities is None else _read_sensitivities(Path(sensitivities))

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> UndersampledFourier:
        channels, height, width = image_shape
        if channels != 2:
            raise UserError(f"CartesianMRI: images must have 2 channels (real, imaginary), got {tuple(image_shape)}")
        low = round(width * self.center_fraction)
        if not 1 <= low < width / self.acceleration:
            raise UserError(
                f"CartesianMRI: a centre of {self.center_fraction:g} is {low} of {width} columns; it must be at least "
                f"one, and fewer than the {width / self.acceleration:g} that acceleration {self.acceleration:g} leaves"
            )
        masks, coils = [], []
        for generator in streams:
            rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
            masks.append(undersampling_mask(self.mask, width, self.acceleration, self.center_fraction, rng))
            if self.given is None and self.num_coils > 1:
                turn, *phases = rng.uniform(0, 2 * np.pi, size=1 + self.num_coils)
                coils.append(simulated_coils(self.num_coils, height, width, turn, phases))
        mask = torch.from_numpy(np.stack(masks))[:, None, None]
        if self.given is not None:
            if self.given.shape[1:] != (height, width):
                raise UserError(f"CartesianMRI: {self.path} is {self.given.shape}, the image {height}x{width}")
            coils = [self.given] * len(streams)
        if not coils:
            return UndersampledFourier(mask, image_shape)
        return MultiCoilFourier(mask, torch.view_as_real(torch.from_numpy(np.stack(coils))), image_shape)


def _read_sensitivities(path: Path) -> np.ndarray:
    values = read_array(path, "CartesianMRI: sensitivities")
    if values.ndim != 3 or values.dtype.kind != "c":
        raise UserError(f"CartesianMRI: {path} must be a complex array (coils, H, W)")
    if not np.isfinite(values).all() or not np.abs(values).any():
        raise UserError(f"CartesianMRI: {path} holds NaN, infinity or nothing but zeros")
    top = np.sqrt((np.abs(values) ** 2).sum(axis=0)).max()
    if top < LEAST_SENSITIVITY:
        raise UserError(
            f"CartesianMRI: the sensitivities {path} have a root sum of squares of {top:.3g} at most: scale them so "
            "that it is about 1"
        )
    return (values / max(top, 1.0)).astype(np.complex64)
