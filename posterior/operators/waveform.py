"""Acoustic full-waveform inversion: sound through a medium whose speed is unknown."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.operators.base import Operator, OperatorFamily
from posterior.operators.gram import own_range
from posterior.operators.stepping import in_stretches, spread

STENCIL = (-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12)
"""Second derivative, fourth order."""
LARGEST_COURANT = math.sqrt(3 / 8)
"""speed * step / spacing up to which leapfrog with this stencil is stable in the plane."""
DEPTH = 3
"""Row of sources and receivers."""
BORDER = 40
"""Pixels around the image in which waves die away."""
DAMPING = 0.08
"""Share of its amplitude that the fastest wave loses on a pixel's way at the outermost pixel; inside it grows as a
square. More reflects, less lets through: 2 % of the direct wave comes back (tests/operators/test_waveform.py)."""
MOST_SHOTS = 1024
LEAST_SIDE = 8
LEAST_PIXELS = 4
"""Of the shortest wave."""


class Seismograms(Operator):
    """A: speed of sound -> pressure at the receivers, (shots, receivers, times), in some unit.

    Args:
        image_shape: (1, H, W).
        family: all else.
        unit: pressure where y = 1.
    """

    def __init__(self, image_shape: Sequence[int], family: AcousticWaves, unit: float = 1.0) -> None:
        super().__init__(image_shape)
        self.family, self.unit = family, unit
        _, height, width = image_shape
        down, across = (_outside(size) for size in (height, width))
        lost = DAMPING * family.fastest * family.step / family.spacing
        self.keeps = 1 - lost * torch.maximum(down[:, None], across).square()
        columns = torch.linspace(0, width - 1, family.shots + 2).round().long()[1:-1]
        self.force = torch.zeros(family.shots, *self.keeps.shape)
        self.force[torch.arange(family.shots), BORDER + DEPTH, BORDER + columns] = 1
        argument = math.pi * (torch.arange(family.steps, dtype=torch.float64) * family.step * family.frequency - 1.5)
        self.wavelet = ((1 - 2 * argument.square()) * torch.exp(-argument.square())).float()

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.family.shots, self.image_shape[2], -(-self.family.steps // self.family.every))

    def forward(self, x: Tensor) -> Tensor:
        family = self.family
        speed = F.pad(spread(family.slowest, family.fastest, x), (BORDER,) * 4, mode="replicate")
        courant2 = (speed * family.step / family.spacing).square()

        def advance(state: tuple[Tensor, ...], start: int, stop: int) -> tuple[Tensor, ...]:
            now, before, *heard = state
            for number in range(start, stop):
                if number % family.every == 0:
                    heard.append(now[:, :, BORDER + DEPTH, BORDER : BORDER + self.image_shape[2]])
                change = courant2 * (self._laplacian(now) + self.wavelet[number] * self.force)
                now, before = self.keeps * (2 * now - before + change), self.keeps * now
            return (now, before, *heard)

        still = torch.zeros_like(speed).expand(-1, family.shots, -1, -1)
        _, _, *heard = in_stretches(advance, (still, still), family.steps)
        return torch.stack(heard, dim=-1) / self.unit

    def _laplacian(self, pressure: Tensor) -> Tensor:
        """Of fields (B, S, H, W) that vanish outside, times the spacing squared."""
        far, near, middle, *_ = STENCIL
        wide = F.pad(pressure, (2,) * 4)
        rows, columns = wide[..., 2:-2], wide[..., 2:-2, :]
        beside = rows[..., 1:-3, :] + rows[..., 3:-1, :] + columns[..., 1:-3] + columns[..., 3:-1]
        beyond = rows[..., :-4, :] + rows[..., 4:, :] + columns[..., :-4] + columns[..., 4:]
        return 2 * middle * pressure + near * beside + far * beyond

    def view(self, y: Tensor) -> Tensor:
        """The middle shot, receivers across and time downwards, each image scaled to its own range."""
        middle = y[:, self.family.shots // 2].mT[:, None]
        return F.interpolate(own_range(middle), size=self.image_shape[1:], mode="nearest")


def _outside(size: int) -> Tensor:
    """How far each of the pixels of a padded side lies outside the image, as a share of the border."""
    place = torch.arange(-BORDER, size + BORDER)
    return torch.maximum(-place, place - (size - 1)).clamp_min(0) / BORDER


@dataclass(frozen=True)
class AcousticWaves(OperatorFamily):
    """Acoustic full-waveform inversion: shots and receivers near the surface, sound speed the unknown.

        p_tt = c^2 (Laplacian p + s),   s = Ricker's wavelet at the shot, as a point

    Finite differences, second order in time and fourth in space, on the image's own grid; all sides absorb (a border of
    40 pixels that damps, Cerjan et al., Geophysics 50, 705, 1985). Shots stand evenly in the fourth row, a receiver in
    each of its pixels.

    Scale: an image in [-1, 1] is c = slowest + (fastest - slowest) (x + 1) / 2, and y is p over its root mean square
    for x = 0.

    Source: the problem of Zheng et al., "InverseBench", ICLR 2025, arXiv:2503.11043, in small; theirs is solved by
    Devito on the velocity models of OpenFWI, and its scales are not ours.

    Args:
        spacing: side of a pixel, metres, > 0.
        step: of time, seconds, > 0; at most 0.61 spacing / fastest.
        steps: how many, >= 1.
        every: one of so many steps is heard, >= 1.
        frequency: where the wavelet is strongest, hertz, > 0; the shortest waves, at 2.5 times that, have at least four
            pixels.
        slowest, fastest: speeds where x = -1 and x = 1, metres a second, > 0. A chain that leaves [-1, 1] diverges
            above 0.61 spacing / step: leave it some room.
        shots: how many, >= 1.

    Raises:
        UserError: if a number is out of range; on realisation, if the images have not one channel or a side below 8,
            shots are more than columns, or the steps that are heard end before any sound arrives.
    """

    spacing: float = 10.0
    step: float = 1e-3
    steps: int = 400
    every: int = 4
    frequency: float = 12.0
    slowest: float = 1500.0
    fastest: float = 4500.0
    shots: int = 8

    def __post_init__(self) -> None:
        who = "AcousticWaves"
        for name in ("spacing", "step", "frequency", "slowest"):
            real(who, name, getattr(self, name), above=0)
        real(who, "fastest", self.fastest, above=self.slowest)
        for name, most in (("steps", MOST_STEPS), ("every", self.steps), ("shots", MOST_SHOTS)):
            whole(who, name, getattr(self, name), 1, most)
        courant = self.fastest * self.step / self.spacing
        if courant > LARGEST_COURANT:
            raise UserError(
                f"{who}: in a step of {self.step:g} s sound goes {courant:.3g} pixels at {self.fastest:g} m/s, the "
                f"scheme is stable below {LARGEST_COURANT:.3f}: take a step of at most "
                f"{LARGEST_COURANT * self.spacing / self.fastest:.3g}"
            )
        shortest = self.slowest / (2.5 * self.frequency * self.spacing)
        if shortest < LEAST_PIXELS:
            raise UserError(
                f"{who}: the shortest waves have {shortest:.3g} pixels, fewer than {LEAST_PIXELS}: take a frequency of "
                f"at most {self.slowest / (2.5 * LEAST_PIXELS * self.spacing):.3g} Hz"
            )

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Seismograms:
        channels, height, width = image_shape
        if channels != 1 or min(height, width) < LEAST_SIDE:
            raise UserError(
                f"AcousticWaves: images must have 1 channel and sides of {LEAST_SIDE} or more, got {tuple(image_shape)}"
            )
        if self.shots > width:
            raise UserError(f"AcousticWaves: {self.shots} shots, but a row has {width} pixels")
        unit = _unit(self, height, width)
        if unit == 0:
            raise UserError(
                f"AcousticWaves: one in {self.every} of {self.steps} steps is heard, and none has sound: take more "
                "steps, or a smaller every"
            )
        return Seismograms(image_shape, self, unit)


@functools.lru_cache(maxsize=8)
def _unit(family: AcousticWaves, height: int, width: int) -> float:
    with torch.no_grad():
        heard = Seismograms((1, height, width), family).forward(torch.zeros(1, 1, height, width))
    return waits.fetch("unit of y", heard.square().mean().sqrt())
