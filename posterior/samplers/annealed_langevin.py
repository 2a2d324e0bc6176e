"""Posterior sampling by annealed Langevin dynamics: Algorithms 1, 2 and 3 of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.reverse_diffusion import ReverseDiffusion
from posterior.samplers.schedules import AnnealingSchedule, Published


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """Langevin dynamics on p(x) p(y_i | x) while the noise of y_i is annealed down to the true level.

    Source: Xun, Gupta, Price, NeurIPS 2025, arXiv:2510.26324. Without ``warm_start`` this is Algorithm 1, target
    p(x | y). With one it is Algorithm 3: the warm start's estimate is re-noised to ``anchor_sigma``, which gives the
    anchor x0 of Algorithm 2 (`from_anchor`), target p(x | x0, y); with ``anchor_term`` off only the start is localised
    and the target is p(x | y). Departs from the published code: true adjoints, and the anchor term is there.

    Args:
        step_size: h > 0 of Euler-Maruyama (published, at 256x256: 5e-7 to 2e-5).
        schedule: levels of the measurement noise.
        reverse: reverse diffusion that draws X_1, from noise or from the anchor.
        warm_start: gives x_hat, the rough estimate; None: Algorithm 1.
        anchor_sigma: > 0, noise level to which x_hat is re-noised (published: t = 100, sigma = 0.34).
        anchor_term: add (x0 - X) / anchor_sigma^2 to the drift.
        score_sigma: smoothing level at which the score is read; None: the prior's sigma_min (published).
        clip: clip the samples to [-1, 1] at the end (published: yes; it biases priors that leave the range).

    Raises:
        UserError: if step_size or anchor_sigma is not > 0, or a warm start comes without anchor_sigma or vice versa.
    """

    step_size: float
    schedule: AnnealingSchedule = field(default_factory=Published)
    reverse: ReverseDiffusion = field(default_factory=ReverseDiffusion)
    warm_start: Sampler | None = None
    anchor_sigma: float | None = None
    anchor_term: bool = True
    score_sigma: float | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise UserError(f"AnnealedLangevin: step_size must be > 0, got {self.step_size}")
        if self.warm_start is not None and self.anchor_sigma is None:
            raise UserError("AnnealedLangevin: a warm start needs anchor_sigma, the level to which it is re-noised")
        if self.anchor_sigma is not None and not self.anchor_sigma > 0:
            raise UserError(f"AnnealedLangevin: anchor_sigma must be > 0, got {self.anchor_sigma}")

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        if self.warm_start is None or self.anchor_sigma is None:  # Algorithm 1
            x = self.reverse(prior, measurement, rng, observe)
            return self.anneal(prior, measurement, x, None, rng, observe)
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
        """The loop of Algorithm 1 from X_1 = x, (R, C, H, W), with the anchor's term if there is an anchor."""
        h = self.step_size
        score_sigma = prior.sigma_min if self.score_sigma is None else self.score_sigma
        first, *levels = self.schedule.levels(measurement, h)
        annealed = AnnealedMeasurement.top(measurement, first.variance, rng)
        total, done = sum(level.num_steps for level in levels), 0
        for level in levels:
            annealed = annealed.lowered(level.variance, rng)
            for _ in range(level.num_steps):
                drift = prior.score(x, score_sigma) + annealed.current.log_likelihood_grad(x)
                if anchor is not None and self.anchor_sigma is not None:
                    drift = drift + (anchor - x) / self.anchor_sigma**2
                x = x + h * drift + (2 * h) ** 0.5 * rng.randn_like("langevin", x)
                done += 1
                observe("annealed Langevin", done, total, x)
        check_finite(x, rng, f"annealed Langevin (step_size {h:g})")
        return x.clamp(-1, 1) if self.clip else x


@dataclass(frozen=True)
class AnnealedMeasurement:
    """The coupled measurements y_i = y + N(0, (v_i - v_N) I) of one chain each, walked downward.

    Seen from y the added noise is Brownian motion in v, so y_{i+1} given y_i is a Brownian bridge: the same law as
    drawing all increments upward first, without storing them.

    Args:
        measured: the measurement itself, level v_N.
        current: y_i with its noise law.
        variance: v_i.
    """

    measured: Measurement
    current: Measurement
    variance: float

    @classmethod
    def top(cls, measured: Measurement, variance: float, rng: Streams) -> AnnealedMeasurement:
        """y_1 at the highest level."""
        added = variance - measured.likelihood.sigma_y**2
        y = measured.y + added**0.5 * rng.randn_like("annealing", measured.y)
        return cls(measured, replace(measured, y=y, likelihood=measured.likelihood.annealed(added)), variance)

    def lowered(self, variance: float, rng: Streams) -> AnnealedMeasurement:
        """y_{i+1} at the next, lower level."""
        floor = self.measured.likelihood.sigma_y**2
        added, added_next = self.variance - floor, max(variance - floor, 0.0)
        y, ratio = self.measured.y, added_next / added if added > 0 else 0.0
        y_next = y + ratio * (self.current.y - y)
        y_next = y_next + (added_next * (1 - ratio)) ** 0.5 * rng.randn_like("annealing", y)
        likelihood = self.measured.likelihood.annealed(added_next)
        return replace(self, current=replace(self.measured, y=y_next, likelihood=likelihood), variance=variance)
