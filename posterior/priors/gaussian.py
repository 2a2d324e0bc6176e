"""A stationary Gaussian prior for images of any size: log-concave, and exact in everything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import LARGEST, MOST_CHANNELS, MOST_SIDE, SMALLEST, length, real, whole
from posterior.errors import UserError
from posterior.images import list_images, load_image
from posterior.priors.base import ClosedFormPrior


class GaussianFieldPrior(ClosedFormPrior):
    """A Gaussian random field on the torus, with a power-law spectrum per colour component plus white noise.

    Colours are turned into orthogonal components. Component c has the spectrum (variance of an orthonormal Fourier
    coefficient at frequency f, in cycles per pixel)

        S_c(f) = amplitude_c (f^2 + cutoff_c^2)^(-exponent_c / 2) + floor^2.

    The field is strongly log-concave (Theorem 1.1 applies). Natural images have exponents near 2 (Field, JOSA A 1987).

    Args:
        mean: mean colour, (C,), in [-1, 1].
        components: orthonormal rows that turn colours into components, (C, C).
        amplitude: > 0, (C,).
        exponent: >= 0, (C,).
        cutoff: cycles per pixel > 0, (C,), below which the spectrum is flat.
        floor: standard deviation of the white part, > 0.

    Raises:
        UserError: if lengths differ, a value is out of range or the components are not orthonormal.
    """

    mean: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        components: Sequence[Sequence[float]],
        amplitude: Sequence[float],
        exponent: Sequence[float],
        cutoff: Sequence[float],
        floor: float = 0.03,
    ) -> None:
        super().__init__()
        who, channels = "GaussianFieldPrior", len(mean)
        length(who, "mean", mean, 1, MOST_CHANNELS)
        if [len(row) for row in components] != [channels] * channels or {
            len(amplitude),
            len(exponent),
            len(cutoff),
        } != {channels}:
            raise UserError(f"GaussianFieldPrior: {channels} channels, but another number of components or parameters")
        basis = torch.tensor(components, dtype=torch.float64)
        if not (basis @ basis.T - torch.eye(channels)).abs().max() <= 1e-4:
            raise UserError("GaussianFieldPrior: the rows of components must be orthonormal")
        real(who, "floor", floor, above=0)
        for colour, a, e, c in zip(mean, amplitude, exponent, cutoff, strict=True):
            real(who, "mean", colour, least=-1, most=1)
            real(who, "amplitude", a, above=0, smallest=SMALLEST**2)  # it comes in units of variance
            real(who, "exponent", e, least=0)
            real(who, "cutoff", c, above=0)
            if math.log(a) - e * math.log(c) > math.log(LARGEST**2):
                raise UserError(
                    f"{who}: amplitude / cutoff^exponent must be <= {LARGEST**2:g}, got {a:g} / {c:g}^{e:g}"
                )
        self.amplitude, self.exponent, self.cutoff = list(amplitude), list(exponent), list(cutoff)
        self.floor = floor
        self.channels = channels
        # polar factor: orthonormal to float64 precision even when read from rounded numbers
        u, _, vh = torch.linalg.svd(basis)
        self._basis = u @ vh
        self.register_buffer("mean", torch.tensor(mean))
        self._cached: dict[tuple[object, ...], Tensor] = {}

    @classmethod
    def fit(cls, images: Tensor, floor: float = 0.03) -> GaussianFieldPrior:
        """Maximum likelihood for the spectrum (Whittle), principal components for the colours.

        Args:
            images: (N, C, H, W) in [-1, 1].
            floor: standard deviation of the white part; it is given, not fitted.

        Raises:
            UserError: if the fit does not converge.
        """
        images = images.double()
        mean = images.mean(dim=(0, 2, 3))
        centred = images - mean[:, None, None]
        colours = centred.transpose(0, 1).flatten(1)
        _, vectors = torch.linalg.eigh(colours @ colours.T / colours.shape[1])
        basis = vectors.T.flip(0)
        basis = basis * torch.where(basis.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        power = torch.fft.fft2(torch.einsum("kc,nchw->nkhw", basis, centred), norm="ortho").abs().square().mean(dim=0)
        height, width = images.shape[-2:]
        radius2 = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width)[None] ** 2
        fitted = [_fit_power_law(radius2, p.numpy(), floor, lowest=0.1 / max(height, width)) for p in power]
        amplitude, exponent, cutoff = map(list, zip(*fitted, strict=True))
        return cls(mean.tolist(), basis.tolist(), amplitude, exponent, cutoff, floor)

    @classmethod
    def from_folder(
        cls, root: Path, crop: int | None = None, size: int | None = None, floor: float = 0.03
    ) -> GaussianFieldPrior:
        """`fit` to a folder of images, read with `posterior.images.load_image`.

        Raises:
            UserError: if the folder or an image is bad, or the images have different sizes.
        """
        for name, side in (("crop", crop), ("size", size)):
            if side is not None:
                whole("GaussianFieldPrior", name, side, 1, MOST_SIDE)
        real("GaussianFieldPrior", "floor", floor, above=0)
        files = list_images(Path(root))
        images = [load_image(path, crop, size) for path in files.values()]
        for path, image in zip(files.values(), images, strict=True):
            if image.shape != images[0].shape:
                raise UserError(
                    f"image {path} is {tuple(image.shape)}, others {tuple(images[0].shape)}: set crop or size"
                )
        return cls.fit(torch.stack(images), floor)

    def settings(self) -> dict[str, object]:
        """The arguments that make this prior again, as plain numbers (for a config file)."""
        return {
            "mean": self.mean.tolist(),
            "components": self._basis.tolist(),
            "amplitude": self.amplitude,
            "exponent": self.exponent,
            "cutoff": self.cutoff,
            "floor": self.floor,
        }

    def content(self) -> str:
        numbers = [*self.mean.tolist(), *self._basis.flatten().tolist()]
        numbers += [*self.amplitude, *self.exponent, *self.cutoff, self.floor]
        text = " ".join(f"{number:.4g}" for number in numbers)  # a fit's last digits may differ between machines
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def spectrum(self, image_shape: Sequence[int]) -> Tensor:
        """S on the half grid of `torch.fft.rfft2`, (C, H, W // 2 + 1), in the prior's dtype, on its device."""
        height, width = image_shape[-2:]
        key = (height, width, self.mean.device, self.mean.dtype)
        if key not in self._cached:
            radius2 = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].square()
            radius2 = radius2 + torch.fft.rfftfreq(width, dtype=torch.float64).square()
            rows = [
                a * (radius2 + c**2) ** (-e / 2) + self.floor**2
                for a, e, c in zip(self.amplitude, self.exponent, self.cutoff, strict=True)
            ]
            self._cached[key] = waits.to_device("spectrum", torch.stack(rows), self.mean)
        return self._cached[key]

    @property
    def components(self) -> Tensor:
        """Orthonormal rows that turn colours into components, (C, C), in the prior's dtype, on its device."""
        key = (self.mean.device, self.mean.dtype)
        if key not in self._cached:
            self._cached[key] = waits.to_device("spectrum", self._basis, self.mean)
        return self._cached[key]

    def filter(self, x: Tensor, gain: Tensor) -> Tensor:
        """Multiply each component's Fourier coefficients of x (B, C, H, W) by a gain (..., C, H, W // 2 + 1)."""
        spectral = torch.fft.rfft2(torch.einsum("kc,bchw->bkhw", self.components, x))
        filtered = torch.fft.irfft2(gain * spectral, s=x.shape[-2:])
        return torch.einsum("kc,bkhw->bchw", self.components, filtered)

    def centre(self, x: Tensor) -> Tensor:
        """x minus the mean colour."""
        return x - self.mean[:, None, None]

    def sample_from(self, noise: Tensor) -> Tensor:
        """Exact samples of p(x), made from standard normal numbers (B, C, H, W)."""
        return self.mean[:, None, None] + self.filter(noise, self.spectrum(noise.shape).sqrt())

    def curvature(self, sigma: float) -> float:
        return 1 / (self.floor**2 + sigma**2)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.filter(self.centre(x), -1 / (self.spectrum(x.shape) + sigma**2))


def _fit_power_law(radius2: np.ndarray, power: np.ndarray, floor: float, lowest: float) -> tuple[float, float, float]:
    """Amplitude, exponent and cutoff (>= lowest) that maximise the Whittle likelihood of a periodogram (H, W)."""

    def spectrum(parameters: np.ndarray) -> np.ndarray:
        log_amplitude, exponent, log_cutoff = parameters
        return np.exp(log_amplitude) * (radius2 + np.exp(2 * log_cutoff)) ** (-exponent / 2) + floor**2

    def loss(parameters: np.ndarray) -> float:
        s = spectrum(parameters)
        return float(np.mean(np.log(s) + power / s))

    start = np.array([np.log(power.mean() * 0.01), 2.0, np.log(max(lowest * 10, 0.01))])
    bounds = [(-60.0, 10.0), (0.0, 30.0), (np.log(lowest), np.log(1.0))]
    found = scipy.optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    if not found.success:
        raise UserError(f"GaussianFieldPrior: no power law could be fitted to these images ({found.message})")
    log_amplitude, exponent, log_cutoff = found.x
    return float(np.exp(log_amplitude)), float(exponent), float(np.exp(log_cutoff))
