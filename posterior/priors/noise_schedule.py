"""Discrete variance-preserving noise schedules, in float64, and the noise levels they stand for.

Source: Ho et al., NeurIPS 2020 (linear betas); Nichol and Dhariwal, ICML 2021 (cosine betas, respacing).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from posterior.checks import MOST_STEPS, brief, whole
from posterior.errors import UserError


@dataclass(frozen=True)
class NoiseSchedule(ABC):
    """T noise levels; `alphas_cumprod[t]` is abar_t and `sigmas[t]` = sqrt((1 - abar_t) / abar_t), rising with t.

    Args:
        num_steps: T >= `least_steps`.

    Raises:
        UserError: if num_steps is out of range.
    """

    least_steps: ClassVar[int] = 2
    num_steps: int = 1000

    def __post_init__(self) -> None:
        whole(type(self).__name__, "num_steps", self.num_steps, self.least_steps, MOST_STEPS)

    @cached_property
    def betas(self) -> np.ndarray:
        """beta_t, (T,) float64."""
        return self._make_betas(self.num_steps)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """abar_t, (T,) float64."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """sigma_t, (T,) float64."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    @abstractmethod
    def _make_betas(self, num_steps: int) -> np.ndarray: ...

    def timestep(self, sigma: float | np.ndarray) -> np.ndarray:
        """The fractional t at which sigma_t = sigma, linear in log sigma between the grid's levels."""
        return np.interp(np.log(sigma), np.log(self.sigmas), np.arange(self.num_steps))


@dataclass(frozen=True)
class LinearBetas(NoiseSchedule):
    """Betas rise linearly from 1e-4 to 0.02, both times 1000 / T; from T = 21 on the last is below 1."""

    least_steps: ClassVar[int] = 21

    def _make_betas(self, num_steps: int) -> np.ndarray:
        return np.linspace(1e-4 * 1000 / num_steps, 0.02 * 1000 / num_steps, num_steps)


@dataclass(frozen=True)
class CosineBetas(NoiseSchedule):
    """abar follows cos^2(((u + 0.008) / 1.008) pi / 2); betas at most 0.999."""

    def _make_betas(self, num_steps: int) -> np.ndarray:
        def abar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        return np.array([min(1 - abar((i + 1) / num_steps) / abar(i / num_steps), 0.999) for i in range(num_steps)])


def respaced_timesteps(num_steps: int, respacing: str) -> list[int]:
    """Which of T timesteps a shorter chain visits, ascending.

    Args:
        num_steps: T.
        respacing: ``"250"``: 250 evenly spaced ones, both ends included; ``"10,20,30"``: that many in each of three
            equal sections; ``"ddim50"``: every s-th from 0, s the smallest stride that gives exactly 50.

    Raises:
        UserError: if T cannot be respaced so.
    """
    try:
        if respacing.startswith("ddim"):
            count = int(respacing.removeprefix("ddim"))
            strides = [s for s in range(1, num_steps) if len(range(0, num_steps, s)) == count]
            if not strides:
                raise UserError(f"respacing {brief(respacing)}: no integer stride takes {count} of {num_steps} steps")
            return list(range(0, num_steps, strides[0]))
        counts = [int(part) for part in respacing.split(",")]
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"respacing {brief(respacing)}: expected e.g. '250', '10,20,30' or 'ddim50'") from error
    steps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = num_steps // len(counts) + (section < num_steps % len(counts))
        if not 1 <= count <= length:
            raise UserError(f"respacing {brief(respacing)}: cannot take {count} steps from a section of {length}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):  # accumulated, as the reference does: rounding must agree
            steps.append(start + round(position))
            position += stride
        start += length
    return steps
