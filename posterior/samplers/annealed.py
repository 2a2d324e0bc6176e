"""What annealed samplers share: start, levels of the measurement noise, target at each level, ending."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from posterior.checks import real
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Ending, Observer, Sampler, check_finite, unobserved
from posterior.samplers.conditional import ConditionalDenoiser
from posterior.samplers.reverse_diffusion import ReverseDiffusion
from posterior.samplers.schedules import AnnealingSchedule, Level, PublishedAnnealing


@dataclass(frozen=True, kw_only=True)
class AnnealedSampler(Sampler):
    """A sampler of p(x) p(y_i | x) while the noise of y_i is annealed down to the true level; subclasses say how.

    Without ``warm_start`` it starts cold, as Algorithm 1 does, target p(x | y). With one its estimate is re-noised to
    ``anchor_sigma``, which gives the anchor x0 of Algorithm 2 (`from_anchor`), target p(x | x0, y); with
    ``anchor_term`` off only the start is localised and the target is p(x | y).

    Mind the targets: an estimate made from y uses the data twice, and with the anchor term the samples are then
    narrower than p(x | y) (docs/method.md section 3).

    Args:
        schedule: levels of the measurement noise.
        reverse: reverse diffusion that draws X_1, from noise or from the anchor; None: X_1 is the anchor itself, which
            is near p_s at s = anchor_sigma, so ``score_sigma_top`` may begin there.
        warm_start: gives x_hat, the rough estimate; None: a cold start.
        anchor_sigma: > 0, noise level to which x_hat is re-noised (published: t = 100, sigma = 0.34).
        anchor_term: add (x0 - X) / anchor_sigma^2 to the drift.
        score_sigma: smoothing level >= 0 at which the score is read at the end; None: the prior's sigma_min
            (published). The chain then targets the posterior under the smoothed prior p * N(0, score_sigma^2 I)
            (docs/method.md section 8).
        score_sigma_top: the same at the highest level of measurement noise; in between it falls geometrically with
            that noise (by the level's number, where the noise does not fall). None: score_sigma throughout (published).
        conditional_score: read the score of p(x_s | y_i), by `ConditionalDenoiser` in two calls, for that of p_s(x) and
            the gradient of p(y_i | x); with an anchor that of p(x_s | y_i, x0). The latter pair takes the state x_s for
            x itself (published): its chain has no law that an ending could lead to p(x | y).
        ending: from score_sigma down to 0, ends the chain; None: the chain's last state is the sample (published).
            `ReverseDiffusion` ignores y; with the schedule ``ListedSigmas([0.0])`` it is one denoising step.
            `ConditionalDescent` draws from p(x | x_s, y).
        clip: clip the samples to [-1, 1] at the end (published: yes; it biases priors that leave the range).

    Raises:
        UserError: if anchor_sigma is not > 0 or a score level is < 0 or rises; if a warm start comes without
            anchor_sigma, or neither it nor reverse diffusion is there to begin with; on a call, if anchor_sigma comes
            without a warm start, a level is outside the prior's range, or a conditional score is not read above its
            lowest level, or the ending has nothing to do.
    """

    stage: ClassVar[str]
    """What the chain is called in progress and errors."""

    schedule: AnnealingSchedule = field(default_factory=PublishedAnnealing)
    reverse: ReverseDiffusion | None = field(default_factory=ReverseDiffusion)
    warm_start: Sampler | None = None
    anchor_sigma: float | None = None
    anchor_term: bool = True
    score_sigma: float | None = None
    score_sigma_top: float | None = None
    conditional_score: bool = False
    ending: Ending | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.warm_start is not None and self.anchor_sigma is None:
            raise UserError(f"{name}: a warm start needs anchor_sigma, the level to which it is re-noised")
        if self.anchor_sigma is not None:
            real(name, "anchor_sigma", self.anchor_sigma, above=0)
        if self.score_sigma is not None:
            real(name, "score_sigma", self.score_sigma, least=0)
        if self.score_sigma_top is not None:
            real(name, "score_sigma_top", self.score_sigma_top, above=0)
        if self.score_sigma_top is not None and not 0 < (self.score_sigma or 0) <= self.score_sigma_top:
            raise UserError(f"{name}: score_sigma_top needs a score_sigma > 0, and not above it")
        if self.reverse is None and self.anchor_sigma is None:
            raise UserError(f"{name}: without reverse diffusion it starts at an anchor, and needs anchor_sigma")

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        self.check(prior, measurement)
        if self.warm_start is None:  # Algorithm 1
            if self.anchor_sigma is not None:
                name = type(self).__name__
                raise UserError(f"{name}: anchor_sigma needs a warm_start (or a call of from_anchor)")
            assert self.reverse is not None
            x = self.reverse(prior, measurement, rng, observe)
            return self.anneal(prior, measurement, x, None, rng, observe)
        assert self.anchor_sigma is not None  # Algorithm 3
        estimate = self.warm_start(prior, measurement, rng, observe)
        anchor = estimate + self.anchor_sigma * rng.randn_like("anchor", estimate)
        return self._localised(prior, measurement, anchor, rng, observe)

    def check(self, prior: Prior, measurement: Measurement) -> None:
        """What can be known before hours of warm start.

        Raises:
            UserError: if a level is outside the prior's range, or the schedule does not fit the measurement.
        """
        lowest = [] if self.reverse is None else self.reverse.schedule.sigmas()[-2:-1]
        for sigma in (self.anchor_sigma, self.score_sigma, self.score_sigma_top, *lowest):
            if sigma is not None:
                prior.check_range(sigma)
        if self.conditional_score and not self.last_score_sigma(prior) > prior.sigma_min:
            name = type(self).__name__
            raise UserError(f"{name}: conditional_score needs a score_sigma above the prior's {prior.sigma_min:g}")
        if self.ending is not None:
            self.ending.check_level(prior, self.last_score_sigma(prior))
        self.levels(measurement)

    def levels(self, measurement: Measurement) -> list[Level]:
        """The schedule's.

        Raises:
            UserError: if it does not end at the measurement's own noise.
        """
        levels = self.schedule.levels(measurement, self.schedule_step, self.anchor_sigma)
        own, last = measurement.likelihood.sigma_y**2, levels[-1].variance
        if abs(last - own) > 1e-9 * own:
            side = "above" if last > own else "below"
            raise UserError(f"annealing schedule: ends at {last:g}, {side} sigma_y^2 = {own:g}")
        return levels

    @property
    def schedule_step(self) -> float:
        """The step size, for schedules whose number of steps follows from it; NaN if it varies by level."""
        return math.nan

    def from_anchor(
        self, prior: Prior, measurement: Measurement, anchor: Tensor, rng: Streams, observe: Observer = unobserved
    ) -> Tensor:
        """Algorithm 2: samples (R, C, H, W) given an anchor x0 = x + N(0, anchor_sigma^2 I), (R, C, H, W).

        Raises:
            UserError: if anchor_sigma is not set.
        """
        if self.anchor_sigma is None:
            name = type(self).__name__
            raise UserError(f"{name}: Algorithm 2 needs anchor_sigma, the noise level of its anchor")
        self.check(prior, measurement)
        return self._localised(prior, measurement, anchor, rng, observe)

    def _localised(
        self, prior: Prior, measurement: Measurement, anchor: Tensor, rng: Streams, observe: Observer
    ) -> Tensor:
        assert self.anchor_sigma is not None
        x = anchor
        if self.reverse is not None:
            x = self.reverse.from_level(prior, measurement, anchor, self.anchor_sigma, rng, observe)
        return self.anneal(prior, measurement, x, anchor if self.anchor_term else None, rng, observe)

    @torch.no_grad()
    def anneal(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        anchor: Tensor | None,
        rng: Streams,
        observe: Observer = unobserved,
    ) -> Tensor:
        """The chain from X_1 = x, (R, C, H, W), with the anchor's term if there is an anchor, and its ending.

        Raises:
            UserError: if an anchor comes without anchor_sigma, the schedule does not fall to the measurement's own
                noise, or no image's chains are finite any more.
        """
        if anchor is not None and self.anchor_sigma is None:
            raise UserError(f"{type(self).__name__}: an anchor needs anchor_sigma, its noise level")
        x = self.chain(prior, measurement, x, anchor, rng, observe)
        x = check_finite(x, rng, self.stage)
        if self.ending is not None:
            sigma = self.last_score_sigma(prior)
            if self.conditional_score and anchor is not None and self.anchor_sigma is not None:
                x, level = seen_together(x, (sigma**2 - prior.sigma_min**2) ** 0.5, anchor, self.anchor_sigma**-2)
                sigma = (level**2 + prior.sigma_min**2) ** 0.5
            x = self.ending.from_level(prior, measurement, x, sigma, rng, observe)
        return x.clamp(-1, 1) if self.clip else x

    @abstractmethod
    def chain(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        anchor: Tensor | None,
        rng: Streams,
        observe: Observer,
    ) -> Tensor:
        """The last state of a chain over `targets`, (R, C, H, W)."""

    def at_level(self, i: int, levels: list[Level]) -> str:
        """Stage and level i of 2, ..., N, for observers."""
        return f"{self.stage}, level {i}/{len(levels)}"

    def last_score_sigma(self, prior: Prior) -> float:
        """Smoothing level of the score at the end."""
        return prior.sigma_min if self.score_sigma is None else self.score_sigma

    def targets(
        self, prior: Prior, measurement: Measurement, levels: list[Level], anchor: Tensor | None, rng: Streams
    ) -> Iterator[tuple[Target, int]]:
        """What is sampled at each level after the first, and in how many steps."""
        top, *levels = levels
        low, last = self.last_score_sigma(prior), levels[-1].variance
        annealed = AnnealedMeasurement.top(measurement, top.variance, rng)
        anchor_precision = 0.0 if anchor is None or self.anchor_sigma is None else self.anchor_sigma**-2
        kind = ConditionalTarget if self.conditional_score else Target
        for number, level in enumerate(levels, start=1):
            annealed = annealed.lowered(level.variance, rng)
            score_sigma = low
            if self.score_sigma_top is not None:
                if top.variance > last * (1 + 1e-9):
                    share = math.log(level.variance / last) / math.log(top.variance / last)
                else:  # the noise does not fall: by the level's number
                    share = 1 - number / len(levels)
                score_sigma = low * (self.score_sigma_top / low) ** share
            yield kind(prior, annealed.current, anchor, anchor_precision, score_sigma), level.num_steps


@dataclass(frozen=True)
class Target:
    """p_s(x) p(y_i | x) p(x0 | x): the prior smoothed to a level s, a measurement, perhaps an anchor."""

    prior: Prior
    measurement: Measurement
    anchor: Tensor | None
    anchor_precision: float
    """1 / anchor_sigma^2, 0 without an anchor."""
    score_sigma: float

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log p_s, one call of the network."""
        return self.prior.score(x, self.score_sigma)

    def data_drift(self, x: Tensor) -> Tensor | float:
        """Gradient of the other terms' logs; 0 if there are none."""
        return self.measurement.log_likelihood_grad(x) + self.anchor_drift(x)

    def anchor_drift(self, x: Tensor) -> Tensor | float:
        """Gradient of log p(x0 | x); 0 without an anchor."""
        return 0.0 if self.anchor is None else (self.anchor - x) * self.anchor_precision

    def drift(self, x: Tensor) -> Tensor:
        """Gradient of the log of it all."""
        return self.score(x) + self.data_drift(x)

    def curvature(self, operator_norm: float) -> float | Tensor:
        """Bound on that of minus the log of it all: a number, or (R, 1, 1, 1) where noise differs between images."""
        variance = self.measurement.likelihood.variance(self.measurement.y)
        if isinstance(variance, Tensor):
            variance = variance.flatten(1).amin(dim=1).view(-1, 1, 1, 1)
        return self.prior.curvature(self.score_sigma) + operator_norm**2 / variance + self.anchor_precision


def seen_together(x: Tensor, sigma: float, anchor: Tensor, anchor_precision: float) -> tuple[Tensor, float]:
    """Two noisy views of one image, x at level sigma > 0 and an anchor, as one: it, (R, C, H, W), and its level."""
    precision = sigma**-2 + anchor_precision
    return (x * sigma**-2 + anchor * anchor_precision) / precision, precision**-0.5


@dataclass(frozen=True)
class ConditionalTarget(Target):
    """p(x_s | y_i, x0) of the smoothed state x_s = x + s n itself, rather than of an x that it is taken for.

    Source: docs/method.md section 8. Where a prior's images are at sigma_min, s n is the noise on top of that. The
    anchor x0 and x_s are two views of one x: together they are one, by their precisions (`seen_together`).
    """

    @property
    def level(self) -> float:
        """t > 0 of the noise on top of sigma_min: t^2 = s^2 - sigma_min^2."""
        return (self.score_sigma**2 - self.prior.sigma_min**2) ** 0.5

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log p(x_s | y_i, x0), (E[x | x_s, y_i, x0] - x_s) / t^2, two calls of the network."""
        seen, level = x, self.level
        if self.anchor is not None:
            seen, level = seen_together(x, level, self.anchor, self.anchor_precision)
        told = ConditionalDenoiser(self.prior, self.measurement)
        return (told.denoise(seen, level, num_steps=1) - x) / self.level**2

    def data_drift(self, x: Tensor) -> float:
        return 0.0  # the score is told all of it

    def curvature(self, operator_norm: float) -> float:
        return self.level**-2  # of any law smoothed by t, p(x | y_i, x0) as well


@dataclass(frozen=True)
class AnnealedMeasurement:
    """The coupled measurements y_i = y + N(0, (v_i - v_N) I) of one chain each, walked downward.

    Seen from y the added noise is Brownian motion in v, so y_{i+1} given y_i is a Brownian bridge: the same law as
    drawing all increments upward first, without storing them (docs/method.md section 2).

    Args:
        measured: the measurement itself, level v_N.
        current: y_i with its noise law.
        added: v_i - v_N >= 0, the variance of the added noise.
    """

    measured: Measurement
    current: Measurement
    added: float

    @classmethod
    def top(cls, measured: Measurement, variance: float, rng: Streams) -> AnnealedMeasurement:
        """y_1 at the highest level, v_1 = variance.

        Raises:
            UserError: if the level lies below the measurement's own.
        """
        return cls(measured, measured, math.inf).lowered(variance, rng)

    def lowered(self, variance: float, rng: Streams) -> AnnealedMeasurement:
        """y_{i+1} at the next level, v_{i+1} = variance.

        Raises:
            UserError: if the level rises, or lies below the measurement's own.
        """
        own = self.measured.likelihood.sigma_y**2
        added = variance - own
        if added < 1e-9 * own:  # the last level, up to rounding
            if added < -1e-9 * own:
                raise UserError(f"annealing schedule: level {variance:g} lies below sigma_y^2 = {own:g}")
            return AnnealedMeasurement(self.measured, self.measured, 0.0)
        if added > self.added * (1 + 1e-9):
            raise UserError(f"annealing schedule: level {variance:g} rises above the one before it")
        kept = added / self.added  # 0 from infinity: all noise is new
        y = self.measured.y + kept * (self.current.y - self.measured.y)
        y = y + (added * max(1 - kept, 0.0)) ** 0.5 * rng.randn_like("annealing", y)
        likelihood = self.measured.likelihood.annealed(added, self.measured.y)
        return replace(self, current=replace(self.measured, y=y, likelihood=likelihood), added=added)
