"""Flow of a viscous fluid in the plane: what its vorticity becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.operators.base import Operator, OperatorFamily
from posterior.operators.stepping import in_stretches

LEAST_SIDE = 8
MOST_STRIDE = 64
LARGEST_TURN = math.sqrt(8)
"""Radians by which a step of Runge and Kutta's fourth order may carry a wave and not amplify it."""
FORCED = 4
"""Wave number and amplitude of the force."""


class Flow(Operator):
    """A: vorticity at time 0 -> vorticity at the end, at every stride-th point, both in units of `NavierStokes.scale`.

    Args:
        image_shape: (1, H, W).
        family: all else.
    """

    def __init__(self, image_shape: Sequence[int], family: NavierStokes) -> None:
        super().__init__(image_shape)
        self.family = family
        _, height, width = image_shape
        rows = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64)[:, None]
        columns = torch.fft.rfftfreq(width, 1 / width, dtype=torch.float64)
        self.wave_y, self.wave_x = rows.float(), columns.float()
        self.kept = ((rows.abs() < height / 3) & (columns < width / 3)).float()  # the rule of two thirds
        force = torch.zeros(*self.kept.shape, 2)
        for row in (FORCED, -FORCED):  # of -4 cos(4 y)
            force[row, 0, 0] -= FORCED * height * width / 2
        self.force = force if family.forced else torch.zeros_like(force)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        _, height, width = self.image_shape
        return (1, -(-height // self.family.stride), -(-width // self.family.stride))

    def forward(self, x: Tensor) -> Tensor:
        family = self.family
        (spectrum,) = in_stretches(self._advance, (torch.fft.rfft2(family.scale * x),), family.steps)
        vorticity = torch.fft.irfft2(spectrum, s=self.image_shape[1:])
        return vorticity[..., :: family.stride, :: family.stride] / family.scale

    def _advance(self, state: tuple[Tensor, ...], start: int, stop: int) -> tuple[Tensor, ...]:
        """Runge and Kutta's fourth order for the rest, the viscous decay being exact (an integrating factor)."""
        (spectrum,), step = state, self.family.time / self.family.steps
        decay = torch.exp(-0.5 * step / self.family.reynolds * (self.wave_x**2 + self.wave_y**2))  # of half a step
        for _ in range(start, stop):
            at_half = decay * spectrum
            first = self._rest(spectrum)
            second = self._rest(at_half + 0.5 * step * decay * first)
            third = self._rest(at_half + 0.5 * step * second)
            fourth = self._rest(decay * (at_half + step * third))
            inner = decay * first + 2 * (second + third)
            spectrum = decay * (at_half + step / 6 * inner) + step / 6 * fourth
        return (spectrum,)

    def _rest(self, spectrum: Tensor) -> Tensor:
        """-u . grad w + force, of a spectrum of w, (B, 1, H, W // 2 + 1)."""
        wave = self.kept * spectrum
        stream = wave / (self.wave_x**2 + self.wave_y**2).clamp_min(1)
        fields = torch.stack([self.wave_y * stream, -self.wave_x * stream, self.wave_x * wave, self.wave_y * wave])
        u, v, slope_x, slope_y = torch.fft.irfft2(1j * fields, s=self.image_shape[1:])
        return torch.view_as_complex(self.force) - self.kept * torch.fft.rfft2(u * slope_x + v * slope_y)


@dataclass(frozen=True)
class NavierStokes(OperatorFamily):
    """Incompressible flow on a torus of side 2 pi: known is the vorticity after a time, unknown that at its beginning.

        w_t + u . grad w = (1 / Re) Laplacian w + f,   u = (psi_y, -psi_x),   -Laplacian psi = w

    x along columns, y along rows, f = -4 cos(4 y). Pseudo-spectral, dealiased by the rule of two thirds, with a fixed
    time step: no image's result depends on another's.

    Scale: an image in [-1, 1] is w = scale x, and y = w(time) / scale at every stride-th point of every stride-th row.

    Source: Zheng et al., "InverseBench", ICLR 2025, arXiv:2503.11043 (Re 200, time 1, scale 10, every second point).
    Its solver has Heun's second order with Crank and Nicolson's rule, time steps that follow the fastest flow of a
    batch, a round dealiasing mask, and f along the other axis.

    Args:
        reynolds: Re > 0.
        time: > 0.
        steps: of time, >= 1; enough that the flow of w = scale cos x, the fastest of one wave, carries no wave that is
            kept by more than sqrt(8) radians in a step: scale time / steps times a third of the longer side.
        scale: vorticity where x = 1, > 0.
        stride: of the points that are seen, >= 1.
        forced: whether f acts.

    Raises:
        UserError: if a number is out of range; on realisation, if the images have not one channel, or a side below 8,
            or the steps are too few.
    """

    reynolds: float = 200.0
    time: float = 1.0
    steps: int = 200
    scale: float = 10.0
    stride: int = 2
    forced: bool = True

    def __post_init__(self) -> None:
        for name in ("reynolds", "time", "scale"):
            real("NavierStokes", name, getattr(self, name), above=0)
        whole("NavierStokes", "steps", self.steps, 1, MOST_STEPS)
        whole("NavierStokes", "stride", self.stride, 1, MOST_STRIDE)

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Flow:
        channels, height, width = image_shape
        if channels != 1 or min(height, width) < LEAST_SIDE:
            raise UserError(
                f"NavierStokes: images must have 1 channel and sides of {LEAST_SIDE} at least, got {tuple(image_shape)}"
            )
        shortest = (max(height, width) - 1) // 3  # waves a side, of those below a third
        turn = shortest * self.scale * self.time / self.steps
        if turn > LARGEST_TURN:
            raise UserError(
                f"NavierStokes: in a step of {self.time / self.steps:.3g} a flow of vorticity {self.scale:g} carries "
                f"the shortest waves of a {height}x{width} image by {turn:.3g} radians, the scheme is stable below "
                f"{LARGEST_TURN:.3g}: take at least {math.ceil(turn / LARGEST_TURN * self.steps)} steps"
            )
        return Flow(image_shape, self)
