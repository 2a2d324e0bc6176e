"""Computed tomography: line integrals of an image along parallel rays or the rays of a fan."""

from __future__ import annotations

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_SIDE, choice, length, real, whole
from posterior.errors import UserError
from posterior.operators.base import Diagonal, LinearOperator, OperatorFamily

MOST_VIEWS = 100_000
MOST_LENGTHS = 200_000_000
"""Of rays in pixels: matrix and transpose then have 3 GB, `BYTES` each."""
BYTES = 16
"""Of a length: a float32 and an int32, in the matrix and in its transpose."""
DECOMPOSED = 1024
"""Pixels up to which A^T A is decomposed: half a second for 32x32 on a CPU; above it conjugate gradients are faster."""
Unit = Literal["degrees", "radians"]
Window = Literal["ramp", "hann"]
EDGE = math.radians(10)
"""From the ends of a fan's arc, where rays begin to count: that of Noo et al."""


@dataclass(frozen=True)
class Beam(ABC):
    """The rays of all views, in pixels; the origin is the middle of the image, x points right and y upwards.

    At the angle theta the detectors stand along e = (cos theta, sin theta), at equal distances through the origin, and
    the middle ray runs along n = (-sin theta, cos theta). (So does scikit-image's `radon` have it.)

    Args:
        angles: theta, radians.
        num_detectors: rays of a view.
        spacing: distance of two detectors, on the line through the origin.
        height, width: of the image.
    """

    angles: tuple[float, ...]
    num_detectors: int
    spacing: float
    height: int
    width: int

    @property
    @abstractmethod
    def turn(self) -> float:
        """Radians after which every line has been seen."""

    def gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of the views on a turn, and the way from each of these to the next, radians, (views,) both."""
        places = np.mod(self.angles, self.turn)
        order = places.argsort()
        return order, np.diff(places[order], append=places[order[0]] + self.turn)

    def shares(self) -> np.ndarray:
        """Radians that each view stands for, (views,): half the way to the views on either side.

        The widest gap counts as the next: what no view sees is left out.
        """
        order, gaps = self.gaps()
        gaps = np.minimum(gaps, _step(gaps))
        shares = np.empty_like(gaps)
        shares[order] = (gaps + np.roll(gaps, 1)) / 2
        return shares

    def offsets(self) -> np.ndarray:
        """s of the detectors, their places along e, (D,)."""
        return (np.arange(self.num_detectors) - (self.num_detectors - 1) / 2) * self.spacing

    @abstractmethod
    def rays(self, e: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and unit directions of one view's rays, (D, 2) each, (x, y)."""

    @abstractmethod
    def seen(self, along: Tensor, depth: Tensor) -> tuple[Tensor, Tensor | float]:
        """s of the ray through a point, and the weight that back projection gives it.

        Args:
            along: <p, e> of points p, any shape.
            depth: <p, n>.
        """

    @abstractmethod
    def weights(self) -> np.ndarray:
        """Of the rays before they are filtered, (views, D): radians of the view, once for every line."""

    def lengths(self) -> scipy.sparse.csr_array:
        """The length of each ray in each pixel, (views D, H W), row-major both.

        A ray along an edge counts half in the pixels on either side, so that no side of the image is favoured.
        """
        found = []
        for angle in self.angles:
            e = np.array([math.cos(angle), math.sin(angle)])
            e[np.abs(e) < 1e-12] = 0.0  # rays along edges are no matter of rounding
            points, directions = self.rays(e, np.array([-e[1], e[0]]))
            aside = 1e-10 * e
            sides = (points - aside, points + aside) if 0 in e else (points,)
            parts = [intersections(side, directions, self.height, self.width) for side in sides]
            found.append(sum(parts[1:], parts[0]) / len(parts))
        return scipy.sparse.csr_array(scipy.sparse.vstack(found, format="csr"))


@dataclass(frozen=True)
class Parallel(Beam):
    """Parallel rays."""

    @property
    def turn(self) -> float:
        return math.pi

    def rays(self, e: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = self.offsets()[:, None] * e
        return points, np.broadcast_to(n, points.shape)

    def seen(self, along: Tensor, depth: Tensor) -> tuple[Tensor, Tensor | float]:
        return along, 1.0

    def weights(self) -> np.ndarray:
        return np.repeat(self.shares()[:, None], self.num_detectors, axis=1)


@dataclass(frozen=True)
class Fan(Beam):
    """Rays from a point at -radius n, detectors on a line; s is where a ray crosses the line through the origin.

    Weights are those of Kak and Slaney, "Principles of Computerized Tomographic Imaging", section 3.4.2. They halve
    every ray, as a whole turn sees each line from both ends; over less, a ray has the share that Noo, Defrise,
    Clackdoyle and Kudo give it, Phys. Med. Biol. 47, 2002: c / (c + c') for c at the view and c' at the line's other.
    """

    radius: float
    """Distance of the source from the origin."""

    @property
    def turn(self) -> float:
        return 2 * math.pi

    def rays(self, e: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = self.offsets()[:, None] * e
        directions = points + self.radius * n
        return points, directions / np.linalg.norm(directions, axis=1, keepdims=True)

    def seen(self, along: Tensor, depth: Tensor) -> tuple[Tensor, Tensor | float]:
        nearer = self.radius / (self.radius + depth)
        return along * nearer, nearer**2

    def weights(self) -> np.ndarray:
        angles, s = np.array(self.angles)[:, None], self.offsets()
        here, there = self._known(angles), self._known(angles + math.pi - 2 * np.arctan(s / self.radius))
        return self.shares()[:, None] * here / (here + there) * self.radius / np.hypot(self.radius, s)

    def _known(self, angles: np.ndarray) -> np.ndarray:
        """c: 1 at angles that views reach, 0 in their widest gap, smooth between; any shape."""
        order, gaps = self.gaps()
        step, widest = _step(gaps), int(gaps.argmax())
        if gaps[widest] < step * (1 + 1e-6):
            return np.ones_like(angles)
        arc = self.turn - gaps[widest] + step
        along = np.mod(angles - self.angles[order[(widest + 1) % len(order)]] + step / 2, self.turn)
        return np.sin(math.pi / 2 * np.clip(np.minimum(along, arc - along) / EDGE, 0, 1)) ** 2


def _step(gaps: np.ndarray) -> float:
    """The widest gap between views but one; that one, if there is no other."""
    return float(np.sort(gaps[gaps > 1e-9])[-2:][0])


def intersections(points: np.ndarray, directions: np.ndarray, height: int, width: int) -> scipy.sparse.csr_array:
    """Exact lengths of lines in square pixels of side 1, (R, H W).

    Siddon, Medical Physics 12, 1985: a line is cut where it crosses the grid's lines, and each piece belongs to the
    pixel of its middle. A line along an inner edge counts for the pixel on its right, or above it; one along the edge
    of the image for none.

    Args:
        points: of the lines, (R, 2), (x, y) from the middle of the image, y upwards.
        directions: of length 1, (R, 2).
        height, width: of the image.
    """
    cuts, entry, exit_ = [], np.full(len(points), -np.inf), np.full(len(points), np.inf)
    for axis, side in enumerate((width, height)):
        grid = np.arange(side + 1) - side / 2
        with np.errstate(divide="ignore", invalid="ignore"):  # a line along the grid's lines crosses none of them
            cut = (grid - points[:, axis : axis + 1]) / directions[:, axis : axis + 1]
        entry = np.maximum(entry, np.fmin(cut[:, 0], cut[:, -1]))
        exit_ = np.minimum(exit_, np.fmax(cut[:, 0], cut[:, -1]))
        cuts.append(cut)
    rows = np.flatnonzero(exit_ > entry)
    low, high = entry[rows, None], exit_[rows, None]
    cut = np.concatenate(cuts, axis=1)[rows]
    cut = np.sort(np.where(np.isnan(cut), low, np.clip(cut, low, high)), axis=1)
    pieces, middles = np.diff(cut, axis=1), (cut[:, 1:] + cut[:, :-1]) / 2
    place, piece = np.nonzero(pieces > 1e-9)
    ray, middle = rows[place], middles[place, piece]
    x, y = (points[ray, axis] + middle * directions[ray, axis] for axis in (0, 1))
    column = np.floor(x + width / 2).astype(np.int32).clip(0, width - 1)
    row = (height - 1 - np.floor(y + height / 2).astype(np.int32)).clip(0, height - 1)
    shape = (len(points), height * width)
    return scipy.sparse.csr_array((pieces[place, piece], (ray.astype(np.int32), row * width + column)), shape=shape)


@dataclass(frozen=True, eq=False)
class _Lengths:
    """A of one channel, its transpose and ||A||; both sparse, which few of torch's functions know."""

    matrix: Tensor
    transposed: Tensor
    norm: float

    def map(self, function: Callable[[Tensor], Tensor]) -> _Lengths:
        return replace(self, matrix=function(self.matrix), transposed=function(self.transposed))

    def __deepcopy__(self, memo: dict[int, object]) -> _Lengths:
        return self  # nothing writes into them, and torch does not copy sparse tensors so


@functools.lru_cache(maxsize=2)  # of up to 3 GB each
def _lengths(beam: Beam) -> _Lengths:
    """In units of the longer side of the image, float32 on the CPU."""
    found = beam.lengths() / max(beam.height, beam.width)
    return _Lengths(_sparse(found), _sparse(found.T.tocsr()), _largest_singular_value(found))


def _sparse(matrix: scipy.sparse.csr_array) -> Tensor:
    rows, columns = (torch.from_numpy(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse tensors a beta
        return torch.sparse_csr_tensor(rows, columns, values, matrix.shape, check_invariants=True)


def _largest_singular_value(matrix: scipy.sparse.csr_array, num_steps: int = 1000) -> float:
    """By power iteration, from a positive image: no entry of the matrix is negative, nor of its first vector."""
    x, norm = np.full(matrix.shape[1], matrix.shape[1] ** -0.5), 0.0
    for _ in range(num_steps):
        x = matrix.T @ (matrix @ x)
        before, norm = norm, float(np.linalg.norm(x))
        x = x / norm
        if norm - before <= 1e-13 * norm:
            break
    return norm**0.5


class _Product(torch.autograd.Function):
    """M x for rows x (R, n), with the transpose given."""

    @staticmethod
    def forward(ctx, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.matrix, ctx.transposed = matrix, transposed
        return (matrix @ x.mT).mT.contiguous()

    @staticmethod
    def backward(ctx, v: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return _Product.apply(v, ctx.transposed, ctx.matrix), None, None


class RayTransform(LinearOperator):
    """Integrals of an image along rays, each channel alike: measurement shape (C, views, detectors).

    Lengths are in units of the image's longer side: through a picture of 1 the rays see at most sqrt(2), and 1 along a
    side. Pixels outside the image are not measured, so they count as 0.

    Args:
        beam: the rays.
        channels: of the image.
    """

    def __init__(self, beam: Beam, channels: int) -> None:
        super().__init__((channels, beam.height, beam.width))
        self.beam = beam
        self._lengths = _lengths(beam)

    def _map(self, names: Sequence[str], function: Callable[[Tensor], Tensor]) -> Self:
        other = super()._map(names, function)
        other._lengths = self._lengths.map(function)
        return other

    @property
    def matrix(self) -> Tensor:
        """A of one channel, (views D, H W), sparse."""
        return self._lengths.matrix

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.image_shape[0], len(self.beam.angles), self.beam.num_detectors)

    def forward(self, x: Tensor) -> Tensor:
        seen = _Product.apply(x.flatten(2).flatten(0, 1), self.matrix, self._lengths.transposed)
        return seen.view(-1, *self.measurement_shape)

    def adjoint(self, v: Tensor) -> Tensor:
        found = _Product.apply(v.flatten(2).flatten(0, 1), self._lengths.transposed, self.matrix)
        return found.view(-1, *self.image_shape)

    def norm(self) -> Tensor:
        return torch.tensor(self._lengths.norm, dtype=torch.float64)

    def rows(self, index: Tensor) -> RayTransform:
        return self  # the same rays for all images

    def view(self, y: Tensor) -> Tensor:
        """The sinogram, a row a view: -1 where pictures are -1 along the ray, or the ray misses them."""
        return super().view((y + self.path()) / 2**0.5 - 1)

    def path(self) -> Tensor:
        """Length of each ray in the image, (1, *measurement_shape)."""
        return self.forward(torch.ones(1, *self.image_shape, dtype=self.matrix.dtype, device=self.matrix.device))

    def diagonal(self) -> Diagonal | None:
        if self.matrix.shape[1] > DECOMPOSED:
            return None
        dense = self.matrix.to_dense().double()
        values, vectors = torch.linalg.eigh(dense.mT @ dense)
        basis = vectors.to(self.matrix.dtype)

        def turned(x: Tensor, matrix: Tensor) -> Tensor:
            return (x.flatten(2) @ matrix).view_as(x)

        gains = values.clamp_min(0).to(basis.dtype).view(1, 1, *self.image_shape[1:])
        return Diagonal(gains, lambda x: turned(x, basis), lambda c: turned(c, basis.mT))

    def filtered_back_projection(self, y: Tensor, window: Window) -> Tensor:
        """The image that all rays would determine, from the rays there are, (B, C, H, W).

        Kak and Slaney, "Principles of Computerized Tomographic Imaging", sections 3.3.3 and 3.4.2: the rays of a view
        are filtered by |f|, with the kernel of their equation 61, and smeared back along themselves, linear between
        two detectors. A line that is seen twice counts once; what no view sees is left out.

        Args:
            y: measurement, (B, C, views, detectors).
            window: of the filter: none, or (1 + cos) / 2, which falls to 0 at the highest frequency.

        Raises:
            UserError: if the window is another.
        """
        choice("filtered_back_projection", "window", window, Window)
        beam = self.beam
        filtered = self._filtered(y, window) * max(self.image_shape[1:])
        across = torch.arange(beam.width, device=y.device, dtype=y.dtype) - (beam.width - 1) / 2
        up = (beam.height - 1) / 2 - torch.arange(beam.height, device=y.device, dtype=y.dtype)[:, None]
        image = y.new_zeros(len(y), *self.image_shape)
        for view, angle in zip(filtered.unbind(dim=2), beam.angles, strict=True):
            cos, sin = math.cos(angle), math.sin(angle)
            s, weight = beam.seen(cos * across + sin * up, cos * up - sin * across)
            place = (s / beam.spacing + (beam.num_detectors - 1) / 2).clamp(0, beam.num_detectors - 1)
            low = place.floor().clamp_max(beam.num_detectors - 2)
            share, below = place - low, low.long()
            image = image + weight * ((1 - share) * view[..., below] + share * view[..., below + 1])
        return image

    def _filtered(self, y: Tensor, window: Window) -> Tensor:
        size = 2 * self.beam.num_detectors  # so that no ray is folded onto another
        distance = np.minimum(np.arange(size), size - np.arange(size))
        kernel = np.where(distance % 2 == 1, -1 / (np.pi * np.maximum(distance, 1)) ** 2, 0.0)
        kernel[0] = 0.25
        gain = np.fft.rfft(kernel).real / self.beam.spacing
        if window == "hann":
            gain = gain * (1 + np.cos(2 * np.pi * np.fft.rfftfreq(size))) / 2
        ramp, weights = (
            waits.to_device("ramp filter", torch.from_numpy(table), y) for table in (gain, self.beam.weights())
        )
        return torch.fft.irfft(torch.fft.rfft(weights * y, n=size) * ramp, n=size)[..., : self.beam.num_detectors]


class Tomography(OperatorFamily):
    """Rays of all views through an image, the detectors wide enough for all of it; see `RayTransform` for units.

    Args:
        num_views: >= 1, equally spaced over the arc, its end left out. Few of them: sparse-view tomography.
        arc_degrees: in (6.29, 360]. Less than half a turn: limited-angle tomography.
        start_degrees: of the first view.
        angles: of the views, in place of these three; their unit must be said.
        unit: of angles, ``degrees`` or ``radians``.
        num_detectors: >= 2 rays a view; None: one every pixel.

    Raises:
        UserError: if a number is out of range, angles have no unit, or look as if they had the other one.
    """

    def __init__(
        self,
        num_views: int,
        arc_degrees: float,
        start_degrees: float,
        angles: list[float] | None,
        unit: Unit | None,
        num_detectors: int | None,
    ) -> None:
        who = type(self).__name__
        whole(who, "num_views", num_views, 1, MOST_VIEWS)
        real(who, "start_degrees", start_degrees, least=-360, most=360)
        real(who, "arc_degrees", arc_degrees, above=0, most=360)
        if arc_degrees <= 2 * math.pi:
            raise UserError(f"{who}: arc_degrees {arc_degrees:g} shows next to nothing: was it meant in radians?")
        if num_detectors is not None:
            whole(who, "num_detectors", num_detectors, 2, MOST_SIDE)
        self.num_detectors = num_detectors
        if angles is None and unit is not None:
            raise UserError(f"{who}: unit is that of angles, which are not given")
        views = [start_degrees + arc_degrees * view / num_views for view in range(num_views)]
        self.angles = tuple(math.radians(view) for view in views) if angles is None else _radians(who, angles, unit)

    @abstractmethod
    def beam(self, height: int, width: int) -> Beam:
        """The rays for images of a size."""

    def _detectors(self, span: float, width: int) -> tuple[int, float]:
        """How many, and how far from each other, for a line of this length, in pixels."""
        if self.num_detectors is not None:
            return self.num_detectors, span / self.num_detectors
        count = math.ceil(span)
        return count + (count - width) % 2, 1.0  # at 0 degrees the rays run through the middles of pixels

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> RayTransform:
        channels, height, width = image_shape
        beam = self.beam(height, width)
        about = math.sqrt(2) * len(beam.angles) * height * width / beam.spacing  # a pixel's shadow is no wider
        if about > MOST_LENGTHS:
            rays = f"{len(beam.angles)} views of {beam.num_detectors} rays"
            raise UserError(
                f"{type(self).__name__}: {rays} have about {about:.1e} lengths in {height}x{width} pixels, "
                f"{BYTES * about / 1e9:.1f} GB; the most is {MOST_LENGTHS:.0e}: take fewer views or detectors"
            )
        return RayTransform(beam, channels)


def _radians(who: str, angles: Sequence[float], unit: Unit | None) -> tuple[float, ...]:
    length(who, "angles", angles, 1, MOST_VIEWS)
    for angle in angles:
        real(who, "angles", angle)
    largest, turn = max(map(abs, angles)), 2 * math.pi
    if unit is None:
        raise UserError(f"{who}: angles up to {largest:g} have no unit: say unit: degrees, or unit: radians")
    choice(who, "unit", unit, Unit)
    if unit == "radians" and largest > turn * (1 + 1e-6):
        raise UserError(f"{who}: angles up to {largest:g} radians are more than a turn: are they degrees?")
    if unit == "degrees" and len(angles) > 1 and largest <= turn:
        raise UserError(f"{who}: angles up to {largest:g} degrees are hardly a turn of it: are they radians?")
    return tuple(math.radians(angle) if unit == "degrees" else float(angle) for angle in angles)


class ParallelBeam(Tomography):
    """Parallel rays: half a turn shows every line once. See `Tomography`.

    Args:
        num_views: >= 1, equally spaced over the arc, its end left out. Few of them: sparse-view tomography.
        arc_degrees: in (6.29, 360]. Less than 180: limited-angle tomography.
        start_degrees: of the first view.
        angles: of the views, in place of these three; their unit must be said.
        unit: of angles, ``degrees`` or ``radians``.
        num_detectors: >= 2 rays a view; None: one every pixel.

    Raises:
        UserError: as `Tomography`.
    """

    def __init__(
        self,
        num_views: int = 30,
        arc_degrees: float = 180.0,
        start_degrees: float = 0.0,
        angles: list[float] | None = None,
        unit: Unit | None = None,
        num_detectors: int | None = None,
    ) -> None:
        super().__init__(num_views, arc_degrees, start_degrees, angles, unit, num_detectors)

    def beam(self, height: int, width: int) -> Beam:
        count, spacing = self._detectors(math.hypot(height, width), width)
        return Parallel(self.angles, count, spacing, height, width)


class FanBeam(Tomography):
    """Rays from a point that turns around the image, detectors on a line: a whole turn shows every line twice.

    Args:
        num_views: >= 1, equally spaced over the arc, its end left out. Few of them: sparse-view tomography.
        arc_degrees: in (6.29, 360]. Less than half a turn and the fan's angle: limited-angle tomography.
        start_degrees: of the first view.
        angles: of the views, in place of these three; their unit must be said.
        unit: of angles, ``degrees`` or ``radians``.
        num_detectors: >= 2 rays a view; None: one every pixel on the line through the middle of the image.
        source_distance: from the middle of the image to the source, in units of its longer side, >= 0.75.

    Raises:
        UserError: as `Tomography`.
    """

    def __init__(
        self,
        num_views: int = 60,
        arc_degrees: float = 360.0,
        start_degrees: float = 0.0,
        angles: list[float] | None = None,
        unit: Unit | None = None,
        num_detectors: int | None = None,
        source_distance: float = 2.0,
    ) -> None:
        super().__init__(num_views, arc_degrees, start_degrees, angles, unit, num_detectors)
        real("FanBeam", "source_distance", source_distance, least=0.75, most=1000)  # a corner is at 0.71 at most
        self.source_distance = source_distance

    def beam(self, height: int, width: int) -> Beam:
        radius, corner = self.source_distance * max(height, width), math.hypot(height, width) / 2
        span = 2 * corner / math.sqrt(1 - (corner / radius) ** 2)  # where tangents of the corners' circle arrive
        count, spacing = self._detectors(span, width)
        return Fan(self.angles, count, spacing, height, width, radius)
