"""Very long baseline interferometry: visibilities of a source, as the Event Horizon Telescope measures them."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import real, whole
from posterior.errors import UserError
from posterior.operators.base import Diagonal, LinearOperator, Operator, OperatorFamily, power_iteration_norm
from posterior.operators.gram import gram_basis, own_range
from posterior.operators.mri import to_channels

MICROARCSECOND = math.pi / (180 * 3600e6)
"""Radians."""
LIGHT = 299_792_458.0
"""Metres a second."""
FREQUENCY = 227.0707e9
"""Hertz; of the low band of 2017 (EHT data product 2019-D01-01)."""
BANDWIDTH = 1.856e9
"""Hertz: 32 channels of 58 MHz (EHT Collaboration, Paper III, ApJL 875, L3, 2019)."""
QUANTIZATION = 0.88
"""Efficiency of two bits a sample (Thompson, Moran and Swenson, "Interferometry and Synthesis", 2017)."""
SOURCE = (187.7059308, 12.3911233)
"""Right ascension and declination of M87, J2000, degrees."""
DAY = 57854
"""Modified Julian date of the observation, 2017 April 11."""
HORIZON = 10.0
"""Least elevation of the source at a station, degrees."""
MOST_SCANS = 1000
LEAST_BASELINES = 6


@dataclass(frozen=True)
class Station:
    """A telescope.

    Args:
        name: as the EHT writes it.
        place: geocentric x, y, z in metres.
        sefd: system equivalent flux density, jansky: a source as bright doubles the power that it receives.
    """

    name: str
    place: tuple[float, float, float]
    sefd: float


EHT_2017 = (
    Station("ALMA", (2225061.164, -5440057.370, -2481681.151), 74),
    Station("APEX", (2225039.530, -5441197.629, -2479303.360), 7000),
    Station("SMT", (-1828796.200, -5054406.800, 3427865.200), 8300),
    Station("JCMT", (-5464584.676, -2493001.170, 2150653.982), 23000),
    Station("LMT", (-768715.632, -5988507.072, 2063354.852), 3700),
    Station("PV", (5088967.745, -301681.186, 3825012.206), 6100),
    Station("SMA", (-5464555.493, -2492927.989, 2150797.176), 7800),
)
"""Stations of 2017 that saw M87 (the South Pole does not).

Places: those that VLBI correlates with (EHT Collaboration, Paper II, ApJL 875, L2, 2019). They give the baselines of
the EHT's released data (2019-D01-01, April 11, low band) within 0.07 %. Sensitivities: fitted by us to the errors of
these data at 4.2 h and 6.2 h, 30 baselines, 13 % root mean square; weather and elevation are in them. Two tables of
eht-imaging do worse on 16 of these errors: arrays/EHT2017_m87.txt (70, 4900, 14400, 10000, 3600, 3600 and 6000 Jy) is
20 % low and scatters by 27 %, arrays/EHT2017.txt, of before the observation, is 59 % low and scatters by 38 %."""


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second station of each baseline, in the order in which all of this package has them."""
    first, second = np.triu_indices(count, k=1)
    return first, second


def sidereal_angle(day: int, hours: np.ndarray) -> np.ndarray:
    """Greenwich mean sidereal time in radians (Meeus, "Astronomical Algorithms", 1998, equation 12.4, linear part).

    Args:
        day: modified Julian date.
        hours: universal time of that day.
    """
    return np.radians((280.46061837 + 360.98564736629 * (day + hours / 24 - 51544.5)) % 360)


def coverage(
    stations: Sequence[Station], day: int, hours: np.ndarray, source: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each baseline measures the transform of the source, as the Earth turns.

    The baseline of stations 1 and 2 is r_1 - r_2 in wavelengths; u is its part towards east, v towards north, as
    seen from the source: with h the Greenwich hour angle and d the declination

        u = x sin h + y cos h,   v = -x sin d cos h + y sin d sin h + z cos d

    (Thompson, Moran and Swenson, whose y points the other way).

    Args:
        stations: N of them.
        day, hours: modified Julian date and universal times, (T,).
        source: right ascension and declination, degrees.

    Returns:
        u and v in wavelengths, (T, N (N - 1) / 2) each, and whether both stations see it above `HORIZON`, likewise.
    """
    ascension, declination = np.radians(source)
    places = np.array([station.place for station in stations])
    hour_angle = (sidereal_angle(day, hours) - ascension)[:, None]
    first, second = pairs(len(stations))
    x, y, z = (places[first] - places[second]).T * FREQUENCY / LIGHT
    u = x * np.sin(hour_angle) + y * np.cos(hour_angle)
    slope = x * np.cos(hour_angle) - y * np.sin(hour_angle)
    v = z * np.cos(declination) - slope * np.sin(declination)
    up = places / np.linalg.norm(places, axis=1, keepdims=True)
    towards = up[:, 0] * np.cos(hour_angle) - up[:, 1] * np.sin(hour_angle)
    seen = towards * np.cos(declination) + up[:, 2] * np.sin(declination) > np.sin(np.radians(HORIZON))
    return u, v, seen[:, first] & seen[:, second]


def thermal_noise(stations: Sequence[Station], seconds: float) -> np.ndarray:
    """Standard deviation of the real and of the imaginary part of each baseline's visibility, jansky.

    sqrt(S_1 S_2 / (2 B t)) / 0.88, S the stations' flux densities, B the bandwidth (Paper III).
    """
    first, second = pairs(len(stations))
    sefds = np.array([station.sefd for station in stations])
    return np.sqrt(sefds[first] * sefds[second] / (2 * BANDWIDTH * seconds)) / QUANTIZATION


class Samples(Operator):
    """The Fourier transform of an image at given points, each with its weight; (2, T, N), real and imaginary parts.

    V_k = sum_hw R_kh C_kw x_hw: the rows' factor and the columns'. Baselines whose stations do not see the source have
    weight 0.

    Args:
        rows: R, real and imaginary parts, (T N, H, 2).
        columns: C, weights included, (T N, W, 2).
        mask: 1 = measured, (T, N).
        image_shape: (1, H, W).
    """

    def __init__(self, rows: Tensor, columns: Tensor, mask: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.row_factors, self.column_factors, self.mask = rows, columns, mask

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (2, *self.mask.shape)

    def transform(self, x: Tensor) -> Tensor:
        """Of images (B, 1, H, W), complex (B, 1, T, N)."""
        columns = torch.view_as_complex(self.column_factors)
        along = x[:, 0].to(columns.dtype) @ columns.mT  # (B, H, T N)
        found = (along * torch.view_as_complex(self.row_factors).mT).sum(dim=1)
        return found.view(-1, 1, *self.mask.shape)

    def back(self, v: Tensor) -> Tensor:
        """The transpose of `transform`, where real and imaginary parts are numbers apart: complex -> (B, 1, H, W)."""
        rows, columns = (torch.view_as_complex(factors) for factors in (self.row_factors, self.column_factors))
        along = v.flatten(1)[:, None] * rows.conj().mT  # (B, H, T N)
        return (along @ columns.conj()).real.reshape(-1, *self.image_shape)

    def restrict(self, y: Tensor) -> Tensor:
        return self.mask * y

    def num_measured(self) -> Tensor:
        return 2 * self.mask.sum()

    def view(self, y: Tensor) -> Tensor:
        """The dirty image, A^T y, scaled to its own range."""
        return own_range(self.back(torch.complex(y[:, :1], y[:, 1:])))


class Visibilities(Samples, LinearOperator):
    """y = A x: visibilities whose gains are known, and the known ones of a grey image taken off."""

    def forward(self, x: Tensor) -> Tensor:
        return to_channels(self.transform(x))

    def adjoint(self, v: Tensor) -> Tensor:
        return self.back(torch.complex(v[:, :1], v[:, 1:]))

    def norm(self) -> Tensor:
        return power_iteration_norm(self, num_steps=2000, tolerance=1e-10)

    def diagonal(self) -> Diagonal | None:
        return gram_basis(self, self.mask)


class GainedVisibilities(Samples):
    """y = G A (x + 1): visibilities of the source itself, each times the gains of its two stations, g_1 conj(g_2).

    Args:
        gains: g_1 conj(g_2), real and imaginary parts, (B, T, N, 2).
        rows, columns, mask, image_shape: as in `Samples`.
    """

    per_image: ClassVar[tuple[str, ...]] = ("gains",)

    def __init__(self, gains: Tensor, rows: Tensor, columns: Tensor, mask: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(rows, columns, mask, image_shape)
        self.gains = gains

    def forward(self, x: Tensor) -> Tensor:
        return to_channels(torch.view_as_complex(self.gains)[:, None] * self.transform(x + 1))

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """A^T G^H v, at every x."""
        return self.back(torch.view_as_complex(self.gains)[:, None].conj() * torch.complex(v[:, :1], v[:, 1:]))


@dataclass(frozen=True)
class EHTArray(OperatorFamily):
    """The Event Horizon Telescope of 2017 on M87: visibilities in units of their own thermal noise.

    The source's brightness I is that of point pixels; l points east (left), m north (up), in radians, and

        V(u, v) = sum I(l, m) exp(2 pi i (u l + v m)) dl dm

    which for u = r_1 - r_2 is the sign of the EHT's data and of its library eht-imaging (which InverseBench takes; it
    multiplies by the transform of a triangular pixel, we do not).

    Scale: an image in [-1, 1] is I = brightness (x + 1) / 2. Each visibility is divided by its thermal noise, all then
    by one unit that makes ||A|| = 1, so that thermal noise has sigma_y = 1 / unit on every baseline (`thermal_sigma`).

    Args:
        field_of_view: width of the image, microarcseconds, > 0.
        scans: times at which all stations measure, evenly from `first` to `last`, >= 1.
        seconds: integrated for each, > 0.
        first, last: universal time on 2017 April 11, hours.
        brightness: where x = 1, millijansky a square microarcsecond, > 0; M87 has about 0.6 Jy in all.

    Raises:
        UserError: if a number is out of range; on realisation, if the images have not one channel.
    """

    field_of_view: float = 100.0
    scans: int = 24
    seconds: float = 300.0
    first: float = 0.5
    last: float = 8.0
    brightness: float = 0.6

    def __post_init__(self) -> None:
        who = type(self).__name__
        for name in ("field_of_view", "seconds", "brightness"):
            real(who, name, getattr(self, name), above=0)
        whole(who, "scans", self.scans, 1, MOST_SCANS)
        real(who, "first", self.first, least=0, most=24)
        real(who, "last", self.last, least=self.first, most=48)
        if not self.observation[2].any():
            raise UserError(f"{who}: no two stations see M87 from {self.first:g} to {self.last:g} h on 2017 April 11")

    @functools.cached_property
    def observation(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u and v in wavelengths and whether they are measured, (scans, baselines); see `coverage`."""
        return coverage(EHT_2017, DAY, np.linspace(self.first, self.last, self.scans), SOURCE)

    def thermal_sigma(self, image_shape: Sequence[int]) -> float:
        """sigma_y of thermal noise alone."""
        return 1 / _factors(self, *self._size(image_shape))[2]

    def _size(self, image_shape: Sequence[int]) -> tuple[int, int]:
        channels, height, width = image_shape
        if channels != 1:
            raise UserError(f"{type(self).__name__}: images must have 1 channel, got {tuple(image_shape)}")
        return height, width

    def _parts(self, image_shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and mask of `Samples`, float32."""
        rows, columns, unit = _factors(self, *self._size(image_shape))
        return rows.float(), (columns / unit).float(), torch.from_numpy(self.observation[2]).float()

    @abstractmethod
    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Samples:
        """See `OperatorFamily.realise`."""


class EHTVisibilities(EHTArray):
    """Visibilities of a calibrated array, of which those of a grey image (x = 0), which are known, are taken off.

    That makes y = A x linear, for Gaussian noise of sigma_y. Args, scale and source: see `EHTArray`.
    """

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Visibilities:
        return Visibilities(*self._parts(image_shape), image_shape)


@dataclass(frozen=True)
class EHTGains(EHTArray):
    """Visibilities as they are recorded: a phase of its own at each station and scan, and amplitudes that are off.

    g = exp(spread n + i phi), phi uniform: the atmosphere's phase changes within seconds, and amplitudes are known to
    some per cent (Paper III). Gains are drawn per image and part of the realised operator. Under
    `posterior.closures.ClosureQuantities` they have no say in p(y | x): closure quantities are those that gains leave
    alone. Under a likelihood that has a say, the gains are as good as known.

    Args:
        spread: standard deviation of the logarithm of an amplitude, >= 0.
        field_of_view, scans, seconds, first, last, brightness: as in `EHTArray`.

    Raises:
        UserError: as in `EHTArray`, or if spread is negative.
    """

    random: ClassVar[bool] = True
    spread: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        real("EHTGains", "spread", self.spread, least=0, most=3)
        most = int(self.observation[2].sum(axis=1).max())
        if most < LEAST_BASELINES:
            raise UserError(
                f"EHTGains: at most {most} baselines see M87 at once from {self.first:g} to {self.last:g} h; closure "
                f"amplitudes need {LEAST_BASELINES}, those of four stations"
            )

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> GainedVisibilities:
        first, second = (torch.from_numpy(station) for station in pairs(len(EHT_2017)))
        shape = (self.scans, len(EHT_2017))
        products = []
        for generator in streams:
            amplitude = (self.spread * torch.randn(shape, generator=generator)).exp()
            gain = torch.polar(amplitude, 2 * math.pi * torch.rand(shape, generator=generator))
            products.append(gain[:, first] * gain[:, second].conj())
        gains = torch.view_as_real(torch.stack(products))
        return GainedVisibilities(gains, *self._parts(image_shape), image_shape)


@functools.lru_cache(maxsize=8)
def _factors(family: EHTArray, height: int, width: int) -> tuple[Tensor, Tensor, float]:
    """Rows (K, H, 2) and columns (K, W, 2) in float64, in units of thermal noise for x in [-1, 1], and ||A||."""
    u, v, seen = (values.reshape(-1, 1) for values in family.observation)
    pixel = family.field_of_view * MICROARCSECOND / width
    east, north = (-pixel * (np.arange(size) + 0.5 - size / 2) for size in (width, height))
    noise = np.tile(thermal_noise(EHT_2017, family.seconds), family.scans)[:, None]
    area = (family.field_of_view / width) ** 2  # square microarcseconds of a pixel
    weight = seen * 0.5e-3 * family.brightness * area / noise
    rows, columns = np.exp(2j * np.pi * v * north), weight * np.exp(2j * np.pi * u * east)
    of_rows, of_columns = (torch.view_as_real(torch.from_numpy(factor)).clone() for factor in (rows, columns))
    mask = torch.from_numpy(family.observation[2]).double()
    bare = Visibilities(of_rows, of_columns, mask, (1, height, width))
    return of_rows, of_columns, waits.fetch("operator norm", power_iteration_norm(bare, tolerance=1e-6))
