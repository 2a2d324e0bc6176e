"""Kinetic (underdamped) annealed Langevin dynamics: second order, one network call a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.checks import real
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators.base import LinearOperator
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.annealed import AnnealedSampler, Target
from posterior.samplers.base import Observer


@dataclass(frozen=True)
class KineticLangevin(AnnealedSampler):
    """The target sequence of `AnnealedLangevin`, sampled by second-order dynamics: one network call a step.

    Source: docs/method.md section 7. The splitting is BAOAB (Leimkuhler and Matthews, 2013), unit mass:

        p += h/2 F;  x += h/2 p;  p = c p + sqrt(1 - c^2) N(0, I), c = exp(-friction h);  x += h/2 p;  p += h/2 F(x)

    with F the gradient of log p_s(x) p(y_i | x) p(x0 | x). The step follows from the curvature at each level,
    h = step_fraction * 2 / sqrt(L), L = L_s + ||A||^2 / v_i + 1 / anchor_sigma^2, L_s the prior's own bound
    (`Prior.curvature`, 1 / s^2 for a network); 2 / sqrt(L) is the limit of stability. With ``conditional_score`` a step
    takes two calls, F is the gradient of log p(x_s | y_i, x0), and L = 1 / s^2.
    When a level changes the score at x is kept, though its smoothing level (and the noise of the y_i that a conditional
    score is told) may be a little lower now: with one step a level asking again would double the calls.

    Args:
        step_fraction: of the limit of stability, in (0, 1).
        friction: >= 0, per unit of time; 0 is Hamiltonian dynamics, which do not forget.
        operator_norm: bound on the derivative of A, needed where A is not linear; not used with ``conditional_score``.

    Raises:
        UserError: if a number is out of range; on a call, before any network call, if the curvature is not bounded or
            A is not linear and has no operator_norm; and as `AnnealedSampler` does.
    """

    stage = "kinetic Langevin"

    step_fraction: float = 0.6
    friction: float = 5.0
    operator_norm: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        real("KineticLangevin", "step_fraction", self.step_fraction, above=0, below=1)
        real("KineticLangevin", "friction", self.friction, least=0)
        if self.operator_norm is not None:
            real("KineticLangevin", "operator_norm", self.operator_norm, above=0)

    def chain(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        anchor: Tensor | None,
        rng: Streams,
        observe: Observer,
    ) -> Tensor:
        norm, levels = self._norm(measurement), self.levels(measurement)
        total, done = sum(level.num_steps for level in levels), 0
        momentum = rng.randn_like("momentum", x)
        score: Tensor | None = None
        for i, (target, num_steps) in enumerate(self.targets(prior, measurement, levels, anchor, rng), start=2):
            h = self.step(target, norm)
            kept = torch.exp(-self.friction * h) if isinstance(h, Tensor) else math.exp(-self.friction * h)
            for _ in range(num_steps):
                score = target.score(x) if score is None else score
                momentum = momentum + h / 2 * (score + target.data_drift(x))
                x = x + h / 2 * momentum
                momentum = kept * momentum + (1 - kept**2) ** 0.5 * rng.randn_like("langevin", x)
                x = x + h / 2 * momentum
                score = target.score(x)
                momentum = momentum + h / 2 * (score + target.data_drift(x))
                done += 1
                observe(self.at_level(i, levels), done, total, x)
        return x

    def step(self, target: Target, norm: float) -> float | Tensor:
        """h at one level: a number, or (R, 1, 1, 1) where the noise differs from image to image."""
        return self.step_fraction * 2 / target.curvature(norm) ** 0.5

    def check(self, prior: Prior, measurement: Measurement) -> None:
        super().check(prior, measurement)
        self._norm(measurement)
        if not (self.conditional_score or math.isfinite(prior.curvature(self.last_score_sigma(prior)))):
            raise UserError(f"KineticLangevin: {type(prior).__name__} has no bounded curvature, give score_sigma > 0")

    def _norm(self, measurement: Measurement) -> float:
        if self.conditional_score:
            return 0.0  # its curvature is bounded without it
        if self.operator_norm is not None:
            return self.operator_norm
        if not isinstance(measurement.operator, LinearOperator):
            name = type(measurement.operator).__name__
            raise UserError(f"KineticLangevin: {name} is not linear, give operator_norm, a bound on its derivative")
        return measurement.operator.norm_bound()
