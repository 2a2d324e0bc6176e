"""Which noise levels a sampler visits: diffusion levels sigma, and annealed measurement noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from posterior.checks import LARGEST, MOST_STEPS, brief, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.priors.noise_schedule import LinearBetas, NoiseSchedule, respaced_timesteps


class SigmaSchedule(ABC):
    """Falling diffusion noise levels that end in 0."""

    @abstractmethod
    def sigmas(self) -> list[float]:
        """Levels in units of the data, strictly falling, the last one 0."""

    def below(self, sigma: float) -> list[float]:
        """Levels for a start at ``sigma``: itself, then the schedule's levels under it."""
        return [sigma, *(level for level in self.sigmas() if level < sigma)]


def levels_within(schedule: SigmaSchedule, prior: Prior) -> list[float]:
    """The schedule's levels, of which the prior is asked at all but the last.

    Raises:
        UserError: if one is outside the prior's range, or there is none but 0.
    """
    sigmas = schedule.sigmas()
    if len(sigmas) < 2:
        raise UserError(f"{type(schedule).__name__}: this sampler needs a level above 0")
    for sigma in (sigmas[0], *sigmas[-2:-1]):
        prior.check_range(sigma)
    return sigmas


@dataclass(frozen=True)
class RespacedSigmas(SigmaSchedule):
    """The levels of a discrete noise schedule, all or a respaced part of them, then 0.

    Args:
        respacing: how many, in the notation of `posterior.priors.respaced_timesteps`: 1000, ``"ddim50"``, ``"10,20"``.
        noise_schedule: whose levels; for a diffusion prior, the one that it was trained on.

    Raises:
        UserError: if the noise schedule cannot be respaced so.
    """

    respacing: int | str = 1000
    noise_schedule: NoiseSchedule = field(default_factory=LinearBetas)

    def __post_init__(self) -> None:
        respaced_timesteps(self.noise_schedule.num_steps, str(self.respacing))

    def sigmas(self) -> list[float]:
        timesteps = respaced_timesteps(self.noise_schedule.num_steps, str(self.respacing))
        return [*(float(self.noise_schedule.sigmas[t]) for t in reversed(timesteps)), 0.0]


@dataclass(frozen=True)
class ListedSigmas(SigmaSchedule):
    """Levels one by one. ``[0.0]``, below any level, is a single denoising step.

    Args:
        levels: strictly falling, the last one 0.

    Raises:
        UserError: if they do not fall, or not to 0, or there are too many.
    """

    levels: Sequence[float]

    def __post_init__(self) -> None:
        if not self.levels or self.levels[-1] != 0 or not all(a > b for a, b in pairwise(self.levels)):
            raise UserError(f"ListedSigmas: levels must fall strictly and end in 0, got {brief(list(self.levels))}")
        whole("ListedSigmas", "the number of levels", len(self.levels), 1, MOST_STEPS)
        for level in {self.levels[0], *self.levels[-2:-1]} - {0.0}:  # they fall: the first and the last above 0
            real("ListedSigmas", "a level above the last", level, above=0)

    def sigmas(self) -> list[float]:
        return list(self.levels)


@dataclass(frozen=True)
class SpacedSigmas(SigmaSchedule):
    """Levels of even steps between two of them on some scale, then 0.

    Args:
        num_levels: above 0, >= 2.
        top, bottom: the highest and the lowest of these, top > bottom > 0.

    Raises:
        UserError: if a value is out of range.
    """

    num_levels: int
    top: float
    bottom: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        whole(name, "num_levels", self.num_levels, 2, MOST_STEPS)
        real(name, "bottom", self.bottom, above=0)
        real(name, "top", self.top, above=self.bottom)

    @abstractmethod
    def between(self, share: float) -> float:
        """The level at a share of the way from the top (0) to the bottom (1)."""

    def sigmas(self) -> list[float]:
        return [*(self.between(number / (self.num_levels - 1)) for number in range(self.num_levels)), 0.0]


@dataclass(frozen=True)
class GeometricSigmas(SpacedSigmas):
    """Levels that fall geometrically, then 0: even steps in log sigma, as variance-exploding samplers take them."""

    def between(self, share: float) -> float:
        return self.top * (self.bottom / self.top) ** share


@dataclass(frozen=True)
class KarrasSigmas(SpacedSigmas):
    """Levels of even steps in sigma^(1/7), then 0: nearer to each other the lower they are.

    Source: Karras, Aittala, Aila, Laine, NeurIPS 2022, equation (5) with rho = 7 (InverseBench's "poly-7").
    """

    def between(self, share: float) -> float:
        high, low = self.top ** (1 / 7), self.bottom ** (1 / 7)
        return (high + share * (low - high)) ** 7


@dataclass(frozen=True)
class QuadraticSigmas(SigmaSchedule):
    """Levels of a discrete noise schedule at T - 1 - floor(T sqrt(i / (N - 1))), then 0: most of them are low ones.

    Source: the DiffPIR code (Zhu et al. 2023), its quadratic sequence of timesteps; the last is timestep 0.

    Args:
        num_levels: N of T, >= 2 and <= T / 4, where they are still apart.
        noise_schedule: whose levels; for a diffusion prior, the one that it was trained on.

    Raises:
        UserError: if the number is out of range.
    """

    num_levels: int = 100
    noise_schedule: NoiseSchedule = field(default_factory=LinearBetas)

    def __post_init__(self) -> None:
        whole("QuadraticSigmas", "num_levels", self.num_levels, 2, self.noise_schedule.num_steps // 4)

    def timesteps(self) -> list[int]:
        """N of them, falling to 0."""
        num_steps = self.noise_schedule.num_steps
        passed = np.sqrt(np.linspace(0, num_steps**2, self.num_levels)).astype(int).clip(max=num_steps - 1)
        return (num_steps - 1 - passed).tolist()

    def sigmas(self) -> list[float]:
        return [*(float(self.noise_schedule.sigmas[t]) for t in self.timesteps()), 0.0]


@dataclass(frozen=True)
class Level:
    """One level of annealed measurement noise: its variance v, and how many Langevin steps are made there."""

    variance: float
    num_steps: int


class AnnealingSchedule(ABC):
    """Variances of the measurement noise, falling to the measurement's own (docs/method.md section 4)."""

    @abstractmethod
    def levels(self, measurement: Measurement, step_size: float, anchor_sigma: float | None = None) -> list[Level]:
        """v_1 >= ... >= v_N with eta_i^2 = v_i; the last variance is sigma_y^2.

        Algorithm 1 makes no step at the first level (its `num_steps` is 0): X_1 stands for a sample of it.

        Args:
            measurement: whose noise is annealed.
            step_size: h of first-order dynamics; NaN if it varies by level.
            anchor_sigma: noise level of the warm start's anchor, None without one.
        """


def _check_levels(who: str, num_levels: int, steps_per_level: int) -> None:
    whole(who, "num_levels", num_levels, 2, MOST_STEPS)
    whole(who, "steps_per_level", steps_per_level, 1, MOST_STEPS)
    whole(who, "num_levels times steps_per_level", num_levels * steps_per_level, 2, MOST_STEPS)


@dataclass(frozen=True)
class PublishedAnnealing(AnnealingSchedule):
    """The schedule of the paper's experiments: upward from sigma_y^2, v <- v + growth * min(v, 1).

    Args:
        growth: f > 0 (the paper's runs: 0.009; also 0.015, 0.011, 0.0045 with 500, 700, 2000 levels).
        num_levels: N >= 2.
        steps_per_level: Langevin steps at each level (the paper: 1).

    Raises:
        UserError: if a value is out of range.
    """

    growth: float = 0.009
    num_levels: int = 1000
    steps_per_level: int = 1

    def __post_init__(self) -> None:
        real("PublishedAnnealing", "growth", self.growth, above=0)
        _check_levels("PublishedAnnealing", self.num_levels, self.steps_per_level)

    def levels(self, measurement: Measurement, step_size: float, anchor_sigma: float | None = None) -> list[Level]:
        variances = [measurement.likelihood.sigma_y**2]
        while len(variances) < self.num_levels:
            variances.append(variances[-1] + self.growth * min(variances[-1], 1.0))
        first, *rest = reversed(variances)
        return [Level(first, 0), *(Level(v, self.steps_per_level) for v in rest)]


@dataclass(frozen=True)
class GeometricAnnealing(AnnealingSchedule):
    """Variances that fall geometrically from ``top`` to sigma_y^2 (docs/method.md section 4).

    After a warm start the top follows from the anchor: at v_1 = ||A||^2 anchor_sigma^2 the measurement tells as much of
    x as the anchor does, so that X_1, drawn given the anchor alone, is near the posterior at that level. Levels above
    would be spent on a measurement that tells nothing yet (measured: docs/tried.md).

    Args:
        num_levels: N >= 2.
        top: the highest variance, v_1 (the published schedules begin at 2 to 4); None: from the anchor, or sigma_y^2
            where that is higher.
        steps_per_level: >= 1.

    Raises:
        UserError: if a value is out of range; on a call, if top lies below sigma_y^2, or it has to follow from an
            anchor that is not there or an operator that is not linear.
    """

    num_levels: int
    top: float | None = None
    steps_per_level: int = 1

    def __post_init__(self) -> None:
        if self.top is not None:
            real("GeometricAnnealing", "top", self.top, above=0)
        _check_levels("GeometricAnnealing", self.num_levels, self.steps_per_level)

    def levels(self, measurement: Measurement, step_size: float, anchor_sigma: float | None = None) -> list[Level]:
        own = measurement.likelihood.sigma_y**2
        top = self.top
        if top is None:
            if anchor_sigma is None:
                raise UserError("GeometricAnnealing: without a warm start its top, the highest variance, must be given")
            norm = measurement.linear_operator("GeometricAnnealing without a top").norm_bound()
            top = max((norm * anchor_sigma) ** 2, own)
        if top < own:
            raise UserError(f"annealing schedule: its top {top:g} lies below sigma_y^2 = {own:g}")
        ratio, last = top / own, self.num_levels - 1
        variances = [own * ratio ** (1 - number / last) for number in range(last)]
        rest = [Level(v, self.steps_per_level) for v in [*variances[1:], own]]
        return [Level(variances[0], 0), *rest]


@dataclass(frozen=True)
class NoAnnealing(AnnealingSchedule):
    """No annealing: plain Langevin dynamics at the measurement's own noise level.

    Args:
        num_steps: Langevin steps, >= 1.

    Raises:
        UserError: if num_steps < 1.
    """

    num_steps: int

    def __post_init__(self) -> None:
        whole("NoAnnealing", "num_steps", self.num_steps, 1, MOST_STEPS)

    def levels(self, measurement: Measurement, step_size: float, anchor_sigma: float | None = None) -> list[Level]:
        variance = measurement.likelihood.sigma_y**2
        return [Level(variance, 0), Level(variance, self.num_steps)]


@dataclass(frozen=True)
class AdmissibleAnnealing(AnnealingSchedule):
    """The schedule for which the theory holds (Definition D.1, Lemma D.4, as read in docs/method.md section 4).

    v_{k+1} = (1 + g_k) v_k, g_k the largest g <= 1 with g ||A||^2 sqrt(T^2 m + T R^2) <= v_k / sqrt(C), where
    T(g) = (m g + log(lambda / eps)) / alpha is the running time at that level; it stops once
    v_N >= (lambda ||A|| / eps)^2 d / alpha. Conservative: thousands of levels where the published one has few. For m
    all entries of y are counted, also masked ones, so that an image's levels do not depend on its batch.

    Args:
        alpha: strong log-concavity of the prior, > 0 (for a Gaussian 1 / its largest variance).
        radius: R, radius of the ball in which the posterior is well conditioned, > 0.
        accuracy: eps in (0, 1).
        inverse_failure: lambda > 1, the inverse of the failure probability.
        constant: C > 0, which the theory leaves open.
        max_levels: refuse schedules with more levels than this.

    Raises:
        UserError: if a value is out of range, or more than ``max_levels`` levels are needed.
    """

    alpha: float
    radius: float
    accuracy: float = 0.1
    inverse_failure: float = 10.0
    constant: float = 1.0
    max_levels: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("alpha", "radius", "constant"):
            real("AdmissibleAnnealing", name, getattr(self, name), above=0)
        real("AdmissibleAnnealing", "accuracy", self.accuracy, above=0, below=1)
        real("AdmissibleAnnealing", "inverse_failure", self.inverse_failure, above=1)
        whole("AdmissibleAnnealing", "max_levels", self.max_levels, 2, MOST_STEPS)

    def running_time(self, growth: float, num_measured: int) -> float:
        """T(g)."""
        return (num_measured * growth + math.log(self.inverse_failure / self.accuracy)) / self.alpha

    def growth(self, variance: float, norm: float, num_measured: int) -> float:
        """The largest admissible g <= 1 above a level of this variance."""

        def excess(g: float) -> float:
            time = self.running_time(g, num_measured)
            drift = g * norm**2 * math.sqrt(time**2 * num_measured + time * self.radius**2)
            return drift - variance / math.sqrt(self.constant)

        if excess(1.0) <= 0:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) <= 0 else (low, middle)
        return low

    def levels(self, measurement: Measurement, step_size: float, anchor_sigma: float | None = None) -> list[Level]:
        if math.isnan(step_size):
            raise UserError("admissible schedule: its running times are those of first-order dynamics")
        norm = measurement.linear_operator("the admissible schedule").norm_bound()
        num_measured = math.prod(measurement.operator.measurement_shape)
        dimension = math.prod(measurement.image_shape)
        top = (self.inverse_failure * norm / self.accuracy) ** 2 * dimension / self.alpha
        variances = [measurement.likelihood.sigma_y**2]
        steps: list[int] = []
        endless = UserError(
            f"admissible schedule: more than {self.max_levels} levels between sigma_y^2 = {variances[0]:.3g} "
            f"and {top:.3g}; raise max_levels, or use the published schedule"
        )
        # g <= v / slope, slope being the drift at the running time of g = 0: a level takes at most 1 / slope off 1 / v
        shortest = self.running_time(0.0, num_measured)
        slope = math.sqrt(self.constant * (shortest**2 * num_measured + shortest * self.radius**2)) * norm**2
        if variances[0] < top and (1 / variances[0] - 1 / top) * slope > self.max_levels:
            raise endless
        while variances[-1] < top:
            growth = self.growth(variances[-1], norm, num_measured)
            if len(variances) >= self.max_levels or growth <= 0:
                raise endless
            steps.append(max(1, math.ceil(self.running_time(growth, num_measured) / step_size)))
            variances.append(variances[-1] * (1 + growth))
        if sum(steps) > LARGEST:
            raise UserError(f"admissible schedule: {sum(steps):.3g} steps of {step_size:g}, which no chain can make")
        levels = [Level(v, n) for v, n in zip(variances, [*steps, 0], strict=True)]
        return levels[::-1]
