"""Posterior sampling by annealed Langevin dynamics: Algorithms 1, 2 and 3 of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.reverse_diffusion import ReverseDiffusion
from posterior.samplers.schedules import AnnealingSchedule, PublishedAnnealing


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """Langevin dynamics on p(x) p(y_i | x) while the noise of y_i is annealed down to the true level.

    Source: Xun, Gupta, Price, NeurIPS 2025, arXiv:2510.26324. Without ``warm_start`` this is Algorithm 1, target
    p(x | y). With one it is Algorithm 3: the warm start's estimate is re-noised to ``anchor_sigma``, which gives the
    anchor x0 of Algorithm 2 (`from_anchor`), target p(x | x0, y); with ``anchor_term`` off only the start is localised
    and the target is p(x | y). Departs from the published code: true adjoints, and the anchor term is there.

    Mind the targets: an estimate made from y uses the data twice, and with the anchor term the samples are then
    narrower than p(x | y) (`method.md` section 3). And mind the step: Euler-Maruyama is stable for h L < 2, where L,
    the curvature, is at most Lip(score) + ||A||^2 / sigma_y^2 + 1 / anchor_sigma^2; in a direction of curvature L its
    variance is 1 / (1 - h L / 2) times too large.

    Args:
        step_size: h > 0 of Euler-Maruyama (published, at 256x256: 5e-7 to 2e-5).
        schedule: levels of the measurement noise.
        reverse: reverse diffusion that draws X_1, from noise or from the anchor.
        warm_start: gives x_hat, the rough estimate; None: Algorithm 1.
        anchor_sigma: > 0, noise level to which x_hat is re-noised (published: t = 100, sigma = 0.34).
        anchor_term: add (x0 - X) / anchor_sigma^2 to the drift.
        score_sigma: smoothing level >= 0 at which the score is read; None: the prior's sigma_min (published). The chain
            then targets the posterior under the smoothed prior p * N(0, score_sigma^2 I).
        ending: reverse diffusion from score_sigma down to 0 that ends the chain; None: the chain's last state is the
            sample (published). With the schedule ``ListedSigmas([0.0])`` it is one denoising step.
        clip: clip the samples to [-1, 1] at the end (published: yes; it biases priors that leave the range).

    Raises:
        UserError: if step_size or anchor_sigma is not > 0 or score_sigma is < 0; if a warm start comes without
            anchor_sigma; on a call, if anchor_sigma comes without a warm start, or a level is outside the prior's
            range.
    """

    step_size: float
    schedule: AnnealingSchedule = field(default_factory=PublishedAnnealing)
    reverse: ReverseDiffusion = field(default_factory=ReverseDiffusion)
    warm_start: Sampler | None = None
    anchor_sigma: float | None = None
    anchor_term: bool = True
    score_sigma: float | None = None
    ending: ReverseDiffusion | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise UserError(f"AnnealedLangevin: step_size must be > 0, got {self.step_size}")
        if self.warm_start is not None and self.anchor_sigma is None:
            raise UserError("AnnealedLangevin: a warm start needs anchor_sigma, the level to which it is re-noised")
        if self.anchor_sigma is not None and not self.anchor_sigma > 0:
            raise UserError(f"AnnealedLangevin: anchor_sigma must be > 0, got {self.anchor_sigma}")
        if self.score_sigma is not None and not self.score_sigma >= 0:
            raise UserError(f"AnnealedLangevin: score_sigma must be >= 0, got {self.score_sigma}")

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        for sigma in (self.anchor_sigma, self.score_sigma):  # before hours of warm start, not after
            if sigma is not None:
                prior.check_range(sigma)
        if self.warm_start is None:  # Algorithm 1
            if self.anchor_sigma is not None:
                raise UserError("AnnealedLangevin: anchor_sigma needs a warm_start (or a call of from_anchor)")
            x = self.reverse(prior, measurement, rng, observe)
            return self.anneal(prior, measurement, x, None, rng, observe)
        assert self.anchor_sigma is not None
        estimate = self.warm_start(prior, measurement, rng, observe)  # Algorithm 3
        anchor = estimate + self.anchor_sigma * rng.randn_like("anchor", estimate)
        return self.from_anchor(prior, measurement, anchor, rng, observe)

    def from_anchor(
        self, prior: Prior, measurement: Measurement, anchor: Tensor, rng: Streams, observe: Observer = unobserved
    ) -> Tensor:
        """Algorithm 2: samples (R, C, H, W) given an anchor x0 = x + N(0, anchor_sigma^2 I), (R, C, H, W).

        Raises:
            UserError: if anchor_sigma is not set.
        """
        if self.anchor_sigma is None:
            raise UserError("AnnealedLangevin: Algorithm 2 needs anchor_sigma, the noise level of its anchor")
        x = self.reverse.from_level(prior, anchor, self.anchor_sigma, rng, observe)
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
        """The loop of Algorithm 1 from X_1 = x, (R, C, H, W), with the anchor's term if there is an anchor.

        Raises:
            UserError: if an anchor comes without anchor_sigma, the schedule does not fall to the measurement's own
                noise, or no image's chains are finite any more.
        """
        if anchor is not None and self.anchor_sigma is None:
            raise UserError("AnnealedLangevin: an anchor needs anchor_sigma, its noise level")
        h = self.step_size
        score_sigma = prior.sigma_min if self.score_sigma is None else self.score_sigma
        first, *levels = self.schedule.levels(measurement, h)
        if levels[-1].variance > measurement.likelihood.sigma_y**2 * (1 + 1e-9):
            raise UserError(f"annealing schedule: ends at {levels[-1].variance:g}, above the measurement's sigma_y^2")
        annealed = AnnealedMeasurement.top(measurement, first.variance, rng)
        anchor_variance = (self.anchor_sigma or 1.0) ** 2
        total, done = sum(level.num_steps for level in levels), 0
        for level in levels:
            annealed = annealed.lowered(level.variance, rng)
            for _ in range(level.num_steps):
                drift = prior.score(x, score_sigma) + annealed.current.log_likelihood_grad(x)
                if anchor is not None:
                    drift = drift + (anchor - x) / anchor_variance
                x = x + h * drift + (2 * h) ** 0.5 * rng.randn_like("langevin", x)
                done += 1
                observe("annealed Langevin", done, total, x)
        check_finite(x, rng, f"annealed Langevin (step_size {h:g})")
        if self.ending is not None:
            x = self.ending.from_level(prior, x, score_sigma, rng, observe)
        return x.clamp(-1, 1) if self.clip else x


@dataclass(frozen=True)
class AnnealedMeasurement:
    """The coupled measurements y_i = y + N(0, (v_i - v_N) I) of one chain each, walked downward.

    Seen from y the added noise is Brownian motion in v, so y_{i+1} given y_i is a Brownian bridge: the same law as
    drawing all increments upward first, without storing them.

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
