"""Pictures that we draw for the operators of physics: black holes, dielectric cells, vortices, layers of rock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from datamodules.drawn import DrawnData
from datamodules.training import DrawnImages
from posterior.checks import real
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily
from posterior.random import stream


class Scene(ABC):
    """What is drawn: a picture from random numbers."""

    @abstractmethod
    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A picture (size, size) in [0, 1], row by row from the top."""

    def image(self, index: int, size: int) -> Tensor:
        """Picture number ``index``, the same on every machine: (1, size, size) in [-1, 1]."""
        seed = int(torch.randint(2**62, (), generator=stream(0, f"scene/{index}", -1, "render")))
        drawn = self.draw(size, np.random.default_rng(seed)).clip(0, 1)
        return torch.from_numpy((2 * drawn - 1).astype(np.float32))[None]


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels' centres, (size, size) each, from -1 to 1 over the picture's side."""
    place = (2 * np.arange(size) + 1) / size - 1
    rows, columns = np.meshgrid(place, place, indexing="ij")
    return rows, columns


@dataclass(frozen=True)
class BlackHole(Scene):
    """A ring, brighter on one side, or (one time in five) a core with a jet; of what surrounds M87's shadow.

    Ring: a Gaussian across a circle of 30 to 50 microarcseconds, 8 to 16 wide at half height, times 1 + a cos of the
    angle from a random side, a from 0.2 to 0.9; up to two fainter spots on it. Jet: three to five elliptical Gaussians
    that fade along a line from the core. The source's middle is within 5 microarcseconds of the picture's; its peak is
    0.6 to 1.

    Args:
        field_of_view: width of the picture, microarcseconds, > 0.

    Raises:
        UserError: if field_of_view is out of range.
    """

    field_of_view: float = 100.0

    def __post_init__(self) -> None:
        real("BlackHole", "field_of_view", self.field_of_view, above=0)

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        rows, columns = (self.field_of_view / 2 * place for place in grid(size))
        down, right = rng.uniform(-5, 5, 2)
        rows, columns = rows - down, columns - right
        picture = self._jet(rows, columns, rng) if rng.uniform() < 0.2 else self._ring(rows, columns, rng)
        return picture * rng.uniform(0.6, 1.0) / picture.max()

    def _ring(self, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        radius, width, side, uneven = rng.uniform((15, 8, 0, 0.2), (25, 16, 2 * np.pi, 0.9))
        distance, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
        picture = np.exp(-4 * np.log(2) * ((distance - radius) / width) ** 2) * (1 + uneven * np.cos(angle - side))
        for _ in range(rng.integers(0, 3)):
            turn, share = rng.uniform((0, 0.2), (2 * np.pi, 0.6))
            centre = radius * np.exp(1j * turn)
            far = np.hypot(columns - centre.real, rows - centre.imag)
            picture = picture + share * np.exp(-4 * np.log(2) * (far / 10) ** 2)
        return picture

    def _jet(self, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        turn, gap = rng.uniform((0, 7), (2 * np.pi, 11))
        along = columns * np.cos(turn) + rows * np.sin(turn)
        across = rows * np.cos(turn) - columns * np.sin(turn)
        knots = rng.integers(3, 6)
        picture = np.zeros_like(rows)
        for knot in range(knots):
            length, width = 10 + 2 * knot, 8 + 1.5 * knot
            place = along + gap * (knots - 1) / 2 - gap * knot
            picture += 0.6**knot * np.exp(-4 * np.log(2) * ((place / length) ** 2 + (across / width) ** 2))
        return picture


@dataclass(frozen=True)
class Cells(Scene):
    """One to four cells: ellipses of a little contrast, each with a nucleus of more, in a medium of none."""

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        rows, columns = grid(4 * size)
        picture = np.zeros_like(rows)
        for _ in range(rng.integers(1, 5)):
            centre, axes, turn = rng.uniform(-0.45, 0.45, 2), rng.uniform(0.22, 0.45, 2), rng.uniform(0, np.pi)
            down, right = rows - centre[0], columns - centre[1]
            along, across = right * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - right * np.sin(turn)
            level, shift, share = rng.uniform((0.2, -0.3, 0.25), (0.5, 0.3, 0.5))
            far = np.hypot(along / axes[0], across / axes[1])
            nucleus = np.hypot((along - shift * axes[0]) / axes[0], across / axes[1]) < share
            picture = np.maximum(picture, level * (far < 1) + rng.uniform(0.2, 0.45) * (nucleus & (far < 1)))
        return picture.reshape(size, 4, size, 4).mean(axis=(1, 3))


@dataclass(frozen=True)
class Vortices(Scene):
    """Vorticity on a torus: a smooth random field of mean 0 (grey), its largest value 0.5 to 0.9 of the scale.

    Waves have random phases and a power that falls as (1 + (k / 4)^2)^-4, k whole waves a side.
    """

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        waves = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.fftfreq(size, 1 / size))
        field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * (1 + (waves / 4) ** 2) ** -2).real
        field = field - field.mean()
        return 0.5 + 0.5 * rng.uniform(0.5, 0.9) * field / np.abs(field).max()


@dataclass(frozen=True)
class Layers(Scene):
    """Rock: five to nine folded layers, faster with depth give or take, cut by one slanting fault."""

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        rows, columns = grid(size)
        slant, place, throw = rng.uniform((-0.5, -0.5, -0.3), (0.5, 0.5, 0.3))
        bend, phase = rng.uniform((0.02, 0), (0.12, 2 * np.pi))
        depth = (rows + 1) / 2 + bend * np.cos(np.pi * columns + phase) + throw * (columns > place + slant * rows)
        count = rng.integers(5, 10)
        levels = np.linspace(0.1, 0.85, count) + rng.uniform(-0.1, 0.1, count)
        picture = levels[(depth * count).clip(0, count - 1).astype(int)]
        return scipy.ndimage.gaussian_filter(picture, size / 64, mode="nearest")


class Scenes(DrawnData):
    """Pictures number ``start`` to ``start + count - 1`` of a scene, (1, size, size).

    Args:
        scene: what is drawn.
        operator: family of measurement operators.
        likelihood: noise law.
        size: side in pixels, >= 8.
        start: first picture, >= 0.
        count: number of pictures, >= 1.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that draw.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: if a number is out of range.
    """

    prefix = "scene"

    def __init__(
        self,
        scene: Scene,
        operator: OperatorFamily,
        likelihood: Likelihood,
        size: int = 32,
        start: int = 0,
        count: int = 16,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, size, start, count, seed, batch_size, num_workers, limit)
        self.scene = scene

    def draw(self, number: int) -> Tensor:
        return self.scene.image(number, self.size)


class SceneImages(DrawnImages):
    """The same pictures for `fit`, or to fit a closed form to, drawn when they are asked for.

    Args:
        scene: what is drawn.
        size: side in pixels, >= 8.
        start: first picture, >= 0: give training and validation other ones.
        count: number of pictures, >= 1.

    Raises:
        UserError: if a number is out of range.
    """

    def __init__(self, scene: Scene, size: int = 32, start: int = 0, count: int = 10000) -> None:
        super().__init__(size, start, count)
        self.scene = scene

    def image(self, index: int) -> Tensor:
        return self.scene.image(self.start + index, self.size)
