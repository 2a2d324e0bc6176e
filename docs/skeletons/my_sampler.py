"""A sampler in one file: copy it, rename the class, replace the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import Measurement, Streams, UserError
from posterior.checks import MOST_STEPS, real, whole
from posterior.priors import Prior
from posterior.samplers import Observer, Sampler, check_finite, unobserved


@dataclass(frozen=True)
class MySampler(Sampler):
    """Plain Langevin dynamics from noise: x <- x + h grad log p_s(x) p(y | x) + sqrt(2 h) n.

    Source: docs/method.md section 2, without the annealing. Right for a posterior with one mode if it runs long enough;
    where there are several modes it stays near those that it meets first. Euler-Maruyama makes a direction of curvature
    L too wide, its variance 1 / (1 - h L / 2) of the right one, so h = step_fraction * 2 / L is kept small.

    Args:
        num_steps: evaluations of the score, >= 1.
        step_fraction: of the limit of stability 2 / L, L = curvature of -log p_s + ||A||^2 / sigma_y^2, in (0, 1).
        score_sigma: smoothing level s >= 0 at which the score is read; None: the prior's sigma_min.

    Raises:
        UserError: if a number is out of range; on a call, before any evaluation of the prior, if the curvature is not
            bounded, A is not linear or the noise is not Gaussian.
    """

    num_steps: int = 500
    step_fraction: float = 0.05
    score_sigma: float | None = None

    def __post_init__(self) -> None:  # settings are refused here, in one line, before time or memory is spent
        real("MySampler", "step_fraction", self.step_fraction, above=0, below=1)
        whole("MySampler", "num_steps", self.num_steps, 1, MOST_STEPS)
        if self.score_sigma is not None:
            real("MySampler", "score_sigma", self.score_sigma, least=0)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        h, s = self._step(prior, measurement)
        x = rng.randn("start", measurement.image_shape)  # (R, C, H, W); each row from its own stream
        for step in range(1, self.num_steps + 1):
            drift = prior.score(x, s) + measurement.log_likelihood_grad(x)
            x = x + h * drift + (2 * h) ** 0.5 * rng.randn_like("langevin", x)
            observe("plain Langevin", step, self.num_steps, x)
        return check_finite(x, rng, "plain Langevin")  # a chain that diverged costs its image, not the run

    def _step(self, prior: Prior, measurement: Measurement) -> tuple[float, float]:
        """h and s: plain numbers, so that no step of the loop waits for a GPU."""
        norm = measurement.linear_operator("MySampler").norm_bound()
        sigma_y = measurement.gaussian_sigma("MySampler")
        s = prior.sigma_min if self.score_sigma is None else self.score_sigma
        curvature = prior.curvature(s) + (norm / sigma_y) ** 2
        if not math.isfinite(curvature):
            raise UserError(f"MySampler: {type(prior).__name__} has no bounded curvature, give score_sigma > 0")
        return self.step_fraction * 2 / curvature, s
