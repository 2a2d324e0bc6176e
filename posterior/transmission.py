"""X-rays through matter: the scale of CT images, and the law of photons that arrive."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from posterior import waits
from posterior.checks import real
from posterior.errors import UserError
from posterior.noise import Likelihood, VaryingNoise, counted
from posterior.operators.base import Operator
from posterior.operators.tomography import Beam, RayTransform

WATER = 0.2059
"""Attenuation of water at 60 keV, 1/cm (NIST, X-Ray Mass Attenuation Coefficients, at 1 g/cm^3)."""


class Hounsfield:
    """The scale of CT images: x = -1 is ``low``, x = 1 is ``high``, in Hounsfield units, linear between them.

    HU = 1000 (mu / mu_water - 1): air, mu = 0, has -1000, water 0.

    Args:
        low, high: of the window, HU; low >= -1000.
        water: mu_water, 1/cm.

    Raises:
        UserError: if a number is out of range.
    """

    def __init__(self, low: float = -1000.0, high: float = 1000.0, water: float = WATER) -> None:
        real("Hounsfield", "low", low, least=-1000, most=100_000)
        real("Hounsfield", "high", high, above=low, most=100_000)
        real("Hounsfield", "water", water, above=0)
        self.low, self.high, self.water = low, high, water

    def image(self, hu: Tensor) -> Tensor:
        """Hounsfield units -> [-1, 1] (beyond it outside the window), any shape."""
        return (2 * hu - self.low - self.high) / (self.high - self.low)

    def units(self, x: Tensor) -> Tensor:
        """[-1, 1] -> Hounsfield units, any shape."""
        return (self.low + self.high + (self.high - self.low) * x) / 2

    def attenuation(self, x: Tensor) -> Tensor:
        """[-1, 1] -> mu, 1/cm, any shape."""
        return self.middle + self.half * x

    def of_attenuation(self, mu: Tensor) -> Tensor:
        """mu, 1/cm -> [-1, 1], any shape."""
        return (mu - self.middle) / self.half

    @property
    def middle(self) -> float:
        """mu of x = 0, 1/cm."""
        return self.water * (1 + (self.low + self.high) / 2000)

    @property
    def half(self) -> float:
        """What one unit of x adds to mu, 1/cm."""
        return self.water * (self.high - self.low) / 2000


@dataclass(frozen=True)
class TransmissionPhotons(Likelihood):
    """Photons that pass an object: k ~ Poisson(I0 exp(-p)), p the integral of mu along the ray (Beer and Lambert).

    mu is that of the image on its `Hounsfield` scale, so p = width (middle A 1 + half A x). y is the count as an
    estimate of A x, the p of log(I0 / (k + 1/2)); counts are read off it again, and a count of 0 is as good as any
    other. Log density and score are those of the counts. Where a Gaussian stands for the law, its variance in each
    entry is 1 / (width^2 half^2 lambda), lambda the mean count: the inverse of the Fisher information.

    Args:
        photons: I0, that leave the source towards a detector in a view, > 0: the dose.
        width: of the image's longer side, cm.
        scale: of the image; None: that of `Hounsfield` by default.

    Raises:
        UserError: if a number is out of range; with an operator that is no tomography; if a detector counts no photon
            in any view.
    """

    photons: float = 1e4
    width: float = 20.0
    scale: Hounsfield | None = None
    _path: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    """Lengths of the rays in the image, (1, *S), once they are known."""
    _beam: Beam | None = field(default=None, init=False, repr=False, compare=False)
    """Whose lengths they are."""
    discrete = True

    def __post_init__(self) -> None:
        real("TransmissionPhotons", "photons", self.photons, above=0)
        real("TransmissionPhotons", "width", self.width, above=0)

    def along(self, operator: Operator) -> TransmissionPhotons:
        if not isinstance(operator, RayTransform):
            raise UserError(
                f"TransmissionPhotons is a law of integrals along rays: ParallelBeam or FanBeam, not "
                f"{type(operator).__name__}"
            )
        shape, path = operator.measurement_shape, self._path
        if path is not None and self._beam == operator.beam and path.shape[1:] == shape:
            return self
        return self._with(operator.path(), operator.beam)

    def _with(self, path: Tensor, beam: Beam | None) -> TransmissionPhotons:
        other = copy.copy(self)
        object.__setattr__(other, "_path", path)
        object.__setattr__(other, "_beam", beam)
        return other

    @property
    def path(self) -> Tensor:
        """Lengths of the rays in the image, (1, *S).

        Raises:
            UserError: if they are not known yet.
        """
        if self._path is None:
            raise UserError("TransmissionPhotons: its rays are not known: take what along(operator) returns")
        return self._path

    @property
    def unit(self) -> float:
        """Of A x, as an integral of mu: width half."""
        return self.width * (self.scale or Hounsfield()).half

    @property
    def grey(self) -> float:
        """The integral of mu through as much of x = 0 as the image is wide: width middle."""
        return self.width * (self.scale or Hounsfield()).middle

    @property
    def sigma_y(self) -> float:  # type: ignore[override]
        """Standard deviation behind as much of x = 0 as the image is wide."""
        return math.exp(self.grey / 2) / (self.photons**0.5 * self.unit)

    def passing(self, clean: Tensor) -> Tensor:
        """The mean count lambda at A x, (B, *S)."""
        return self.photons * torch.exp(-self.grey * self.path - self.unit * clean)

    def measured(self, counts: Tensor) -> Tensor:
        """y of counts (B, *S)."""
        missing = math.log(self.photons) - (counts + 0.5).log()
        return (missing - self.grey * self.path) / self.unit

    def of_counts(self, counts: Tensor) -> Tensor:
        """`measured`, of counts (B, *S) that somebody else made: a scanner's, divided by its gain.

        Raises:
            UserError: if their shape is another, a count is negative or no number, or a detector counts nothing in any
                view; if the rays are not known.
        """
        if counts.ndim != self.path.ndim or counts.shape[1:] != self.path.shape[1:]:
            shape = ", ".join(map(str, self.path.shape[1:]))
            raise UserError(f"TransmissionPhotons: counts must be (images, {shape}), got {tuple(counts.shape)}")
        if not bool((torch.isfinite(counts) & (counts >= 0)).all()):
            raise UserError("TransmissionPhotons: counts must be numbers >= 0: subtract no background from them")
        _check_detectors(counts)
        return self.measured(counts)

    def check(self, values: Tensor, source: str) -> None:
        """Refuse measurements (B, *S) in which a detector counts nothing in any view.

        Raises:
            UserError: naming the source and the detector; if the rays are not known.
        """
        _check_detectors(self.counts(values), source)

    def counts(self, y: Tensor) -> Tensor:
        """The counts that y stands for, (B, *S)."""
        return (self.passing(y) - 0.5).round().clamp_min(0)

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Counts are quantiles: the normal numbers decide where in its distribution a count lies."""
        counts = waits.on_host("photon counts", _counted, self.passing(clean), noise)
        return self.measured(waits.to_device("photon counts", counts, clean))

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        counts, mean = self.counts(y).double(), self.passing(clean.double())
        return torch.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)

    def variance(self, y: Tensor) -> Tensor:
        return 1 / (self.unit**2 * self.passing(y)).clamp_min(1e-12)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """(lambda - k) width half."""
        return (self.passing(clean) - self.counts(y)) * self.unit

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """sigma_y times the root of the deviance, which is ||y - A x|| where many photons arrive everywhere alike."""
        counts, mean = self.counts(y), self.passing(clean)
        deviance = 2 * (torch.xlogy(counts, counts / mean) - counts + mean).flatten(1).sum(dim=1)
        return self.sigma_y * deviance.clamp_min(1e-12) ** 0.5

    def annealed(self, added_variance: float, y: Tensor) -> VaryingNoise:
        return VaryingNoise(self.variance(y) + added_variance)

    def to(self, device: torch.device | str) -> TransmissionPhotons:
        return self if self._path is None else self._with(self._path.to(device), self._beam)


def _counted(mean: Tensor, noise: Tensor) -> Tensor:
    counts = counted(mean, noise)
    _check_detectors(counts)
    return counts


def _check_detectors(counts: Tensor, source: str = "") -> None:
    """Raises:
    UserError: naming a detector that counts nothing in any view; counts are (B, C, views, detectors).
    """
    dark = (counts == 0).all(dim=2).flatten(0, 1).any(dim=0)
    if dark.any():
        where = f"{source}: " if source else ""
        raise UserError(
            f"TransmissionPhotons: {where}detector {int(dark.int().argmax())} counts no photon in any of "
            f"{counts.shape[2]} views: it is dead, or there are too few photons; leave it out, or raise photons"
        )
