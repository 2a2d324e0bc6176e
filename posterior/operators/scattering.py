"""Linear inverse scattering: what receivers on a ring hear of an object, in the first Born approximation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import real, whole
from posterior.errors import UserError
from posterior.operators.base import Diagonal, LinearOperator, OperatorFamily, power_iteration_norm
from posterior.operators.gram import gram_basis, own_range
from posterior.operators.mri import to_channels

MOST_SENSORS = 4096
"""Transmitters, or receivers, on a ring: ten times what InverseBench has."""
LEAST_PIXELS = 2.0
"""Pixels of a wavelength: with fewer the grid does not carry the wave."""


def green(distance: np.ndarray) -> np.ndarray:
    """Green's function of the plane, (i / 4) H_0^(1)(k r), of distances k r > 0 in radians, complex.

    It solves (Laplacian + k^2) G = -delta and leaves its source, for a time dependence of exp(-i omega t).
    """
    return 0.25j * scipy.special.hankel1(0, distance)


class RingFields(LinearOperator):
    """y_tr = sum_p g_rp u_tp x_p: every pixel sends on what reaches it, to every receiver; (2, T, R).

    Real and imaginary parts of y are its two channels. The receivers' factor is shared by all transmitters, so that
    the (2 T R, H W) matrix is never made.

    Args:
        incident: u, real and imaginary parts, (T, H W, 2), of the field of transmitter t at a pixel.
        outgoing: g, (R, H W, 2), from a pixel to receiver r; all constants are in it.
        image_shape: (1, H, W).
    """

    def __init__(self, incident: Tensor, outgoing: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.incident, self.outgoing = incident, outgoing

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (2, len(self.incident), len(self.outgoing))

    def forward(self, x: Tensor) -> Tensor:
        sources = torch.view_as_complex(self.incident) * x.flatten(1)[:, None]  # (B, T, H W)
        return to_channels((sources @ torch.view_as_complex(self.outgoing).mT)[:, None])

    def adjoint(self, v: Tensor) -> Tensor:
        heard = torch.complex(v[:, 0], v[:, 1]) @ torch.view_as_complex(self.outgoing).conj()
        back = (torch.view_as_complex(self.incident).conj() * heard).real
        return back.sum(dim=1).view(-1, *self.image_shape)

    def norm(self) -> Tensor:
        return power_iteration_norm(self, num_steps=2000, tolerance=1e-10)  # the largest values lie close together

    def diagonal(self) -> Diagonal | None:
        return gram_basis(self, self.incident)

    def view(self, y: Tensor) -> Tensor:
        """A^T y, each image scaled to its own range: the object as back-propagation sees it."""
        return own_range(self.adjoint(y))


@dataclass(frozen=True)
class InverseScattering(OperatorFamily):
    """Scattered waves of a dielectric object in the plane, by transmitters and receivers on a ring around it.

    First Born approximation, in which the object is lit by the incident field alone:

        u_sc(r) = k^2 int G(r - r') f(r') u_in(r') dr',   G(r) = (i / 4) H_0^(1)(k |r|),   u_in(r') = G(r' - r_t)

    f = epsilon - 1 is the permittivity's contrast, G the Green's function of the homogeneous plane, r_t a transmitter,
    a point in the plane (a line in space). Sensors stand evenly, transmitter and receiver number j of n at the angle
    2 pi j / n. Each pixel is one point, at its centre; rows run along y, columns along x. Lengths are in wavelengths,
    in which nothing else enters. What is measured well is a disc: spatial frequencies below 2 a wavelength.

    Scale: an image in [-1, 1] is f = contrast (x + 1) / 2, and the measurement is

        y = (u_sc(f) - u_sc(contrast / 2)) / unit

    with a known constant, the field of x = 0, taken off, so that y = A x, and a unit that makes ||A|| = 1; `contrast`
    cancels in y and decides the fields in `fields` alone. sigma_y is the noise of y's real and of its imaginary part.

    Source: Zheng et al., "InverseBench", ICLR 2025, arXiv:2503.11043, whose ring this is by default (its square of
    0.18 m at 6 of 128 pixels a wavelength, radius 1.6 m); Sun, Xia and Kamilov, Opt. Express 26, 14678 (2018), for the
    integral equation, of which it is the first term. InverseBench's code conjugates the incident field, sets its n
    sensors 359 / (n - 1) degrees apart instead of 360 / n, puts pixels at (j - n / 2) times their side, half a side off
    the centre, and leaves y in its own units.

    Args:
        wavelengths: side of the image (the longer one) in wavelengths, > 0.
        radius: of the ring in sides of the image, >= 1, so that no sensor is within it.
        transmitters: how many, >= 1.
        receivers: how many, >= 1.
        contrast: f where x = 1, > 0.

    Raises:
        UserError: if a number is out of range; on realisation, if the images have not one channel, or a wavelength
            has fewer than two pixels.
    """

    wavelengths: float = 128 / 6
    radius: float = 1.6 / 0.18
    transmitters: int = 20
    receivers: int = 360
    contrast: float = 1.0

    def __post_init__(self) -> None:
        who = type(self).__name__
        real(who, "wavelengths", self.wavelengths, above=0)
        real(who, "radius", self.radius, least=1)
        whole(who, "transmitters", self.transmitters, 1, MOST_SENSORS)
        whole(who, "receivers", self.receivers, 1, MOST_SENSORS)
        real(who, "contrast", self.contrast, above=0)

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> RingFields:
        channels, height, width = image_shape
        pixels = max(height, width) / self.wavelengths
        if channels != 1:
            raise UserError(f"InverseScattering: images must have 1 channel, got {tuple(image_shape)}")
        if pixels < LEAST_PIXELS:
            raise UserError(
                f"InverseScattering: {pixels:.3g} pixels a wavelength of a {height}x{width} image are too few, "
                f"{LEAST_PIXELS:g} are needed: take at most {max(height, width) / LEAST_PIXELS:g} wavelengths"
            )
        incident, outgoing, unit = _ring(self, height, width)
        outgoing = outgoing * (self._factor(height, width) / unit)
        return RingFields(_pairs(incident).float(), _pairs(outgoing).float(), image_shape)

    def fields(self, x: Tensor) -> Tensor:
        """u_sc of images (B, 1, H, W), complex (B, T, R), without constant taken off and in no unit, as above."""
        _, height, width = x.shape[1:]
        incident, outgoing, _ = _ring(self, height, width)
        outgoing = outgoing * self._factor(height, width)
        y = RingFields(_pairs(incident), _pairs(outgoing), x.shape[1:]).forward(x.double() + 1)
        return torch.complex(y[:, 0], y[:, 1])

    def _factor(self, height: int, width: int) -> float:
        """k^2, a pixel's area and half of the contrast: u_sc of x + 1 over the double sum."""
        return 0.5 * self.contrast * (2 * math.pi * self.wavelengths / max(height, width)) ** 2


@functools.lru_cache(maxsize=8)
def _ring(family: InverseScattering, height: int, width: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Green's functions from transmitters (T, H W) and to receivers (R, H W), complex128, and the unit of y."""
    side = 2 * math.pi * family.wavelengths  # of the image, k times its length
    pixel = side / max(height, width)
    y, x = np.meshgrid((np.arange(height) + 0.5 - height / 2), (np.arange(width) + 0.5 - width / 2), indexing="ij")
    place = pixel * (x + 1j * y).ravel()
    incident, outgoing = (
        green(np.abs(place - family.radius * side * np.exp(2j * np.pi * np.arange(count) / count)[:, None]))
        for count in (family.transmitters, family.receivers)
    )
    bare = RingFields(_pairs(incident), _pairs(outgoing * family._factor(height, width)), (1, height, width))
    return incident, outgoing, waits.fetch("operator norm", power_iteration_norm(bare, tolerance=1e-6))


def _pairs(z: np.ndarray) -> Tensor:
    """Real and imaginary parts, (..., 2), float64."""
    return torch.view_as_real(torch.from_numpy(np.ascontiguousarray(z))).clone()
