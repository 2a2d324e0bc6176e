"""Samples under a Gaussian prior for operators that are not linear: by minima, of which each has random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators.base import conjugate_gradients, inner
from posterior.priors.base import Prior
from posterior.priors.gaussian import GaussianFieldPrior
from posterior.priors.mixture import GaussianMixturePrior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.conditional import ConditionalDenoiser

FIRST_DAMPING, EASED, TIGHTENED = 0.25, 1 / 3, 4.0
"""Of a step, in units of the mean squared residual; its factors after a step that is taken, and one that is not."""
ROUNDING = 1e-5
"""Of a sum of squares in float32. At the minimum a step counts as no worse, else rounding would choose."""


@dataclass(frozen=True)
class RandomisedMaximumLikelihood(Sampler):
    """Samples for a Gaussian prior N(m, C), any operator and Gaussian noise: y and m get noise, then x is sought.

        x = argmin |y + sigma_y n - A(x)|^2 / sigma_y^2 + (x - draw)^T C^-1 (x - draw),   draw ~ N(m, C)

    Exact where A is linear. Where it is not, the law is about that of the posterior around the minimum that is found;
    where there are several, the start decides, and they do not get their shares.

    The minimum is sought in z, x = m + C^(1/2) z, by steps of Levenberg and Marquardt, and each of those by conjugate
    gradients with A's Jacobian at x. As Hanke has it, the damping is a share of the mean squared residual: far from the
    data a step does not trust the Jacobian to meet them. A row takes a step only if that does not go up; then its share
    falls, else it grows.

    Source: Oliver, He and Reynolds, "Conditioning permeability fields to pressure data", ECMOR V, 1996; Hanke, "A
    regularizing Levenberg-Marquardt scheme", Inverse Problems 13, 79, 1997; docs/method.md section 6.

    Args:
        num_steps: of Levenberg and Marquardt, >= 1.
        inner_steps: of conjugate gradients in each of them, >= 1. One costs A once and its vjp once.
        warm_start: where the search begins; None: at m.

    Raises:
        UserError: if a number is out of range; on a call, if the prior is not Gaussian (a `GaussianFieldPrior`, or a
            mixture of one component), or the noise is not.
    """

    num_steps: int = 25
    inner_steps: int = 15
    warm_start: Sampler | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "inner_steps"):
            whole("RandomisedMaximumLikelihood", name, getattr(self, name), 1, MOST_STEPS)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        mean, times = _gaussian(prior, measurement)
        sigma_y = measurement.gaussian_sigma("RandomisedMaximumLikelihood")
        noisy = measurement.y + sigma_y * rng.randn_like("perturbed measurement", measurement.y)
        told = ConditionalDenoiser(prior, replace(measurement, y=measurement.operator.restrict(noisy)))
        draw = rng.randn("perturbed prior", measurement.image_shape, measurement.y.dtype)
        aim = _Aim(told, sigma_y, draw, lambda z: mean + times(z, 0.5), lambda v: times(v, 0.5))
        z = torch.zeros_like(draw)
        if self.warm_start is not None:
            z = times(self.warm_start(prior, measurement, rng, observe) - mean, -0.5)
        residual, cost = aim.missed(z)
        share = torch.full_like(cost, FIRST_DAMPING)
        for step in range(1, self.num_steps + 1):
            damping = share * residual.flatten(1).square().mean(dim=1).view_as(share)
            tried = z + aim.step(z, residual, damping, self.inner_steps)
            residual_tried, cost_tried = aim.missed(tried)
            lower = cost_tried < cost * (1 + ROUNDING)
            z = torch.where(lower, tried, z)
            residual = torch.where(lower.view(-1, *[1] * (residual.ndim - 1)), residual_tried, residual)
            cost, share = torch.where(lower, cost_tried, cost), share * torch.where(lower, EASED, TIGHTENED)
            observe("randomised likelihood", step, self.num_steps, aim.image(z))
        return check_finite(aim.image(z).where(cost.isfinite(), torch.nan), rng, "randomised likelihood")


@dataclass(frozen=True)
class _Aim:
    """What z is to minimise, |residual|^2 + |z - draw|^2, for R rows.

    Args:
        told: knows the measurement that is to be met.
        sigma_y: > 0.
        draw: (R, C, H, W).
        image: z -> m + C^(1/2) z.
        root: v -> C^(1/2) v.
    """

    told: ConditionalDenoiser
    sigma_y: float
    draw: Tensor
    image: Callable[[Tensor], Tensor]
    root: Callable[[Tensor], Tensor]

    def missed(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(y - A(x)) / sigma_y, (R, *measurement_shape), and the sum, (R, 1, 1, 1)."""
        goal = self.told.measurement
        residual = goal.operator.restrict(goal.y - goal.observed(self.image(z))) / self.sigma_y
        return residual, inner(residual, residual).view(-1, 1, 1, 1) + inner(z - self.draw, z - self.draw)

    def step(self, z: Tensor, residual: Tensor, damping: Tensor, num_steps: int) -> Tensor:
        """(J^T J + (1 + damping) I)^-1 (J^T residual + draw - z), about, J the Jacobian of A(x(z)) / sigma_y."""
        goal, x = self.told.measurement, self.image(z)
        clean = goal.y - self.sigma_y * residual

        def back(v: Tensor) -> Tensor:
            return self.root(goal.operator.vjp(x, v)) / self.sigma_y

        def applied(v: Tensor) -> Tensor:
            along = goal.operator.restrict(self.told.jvp(x, clean, self.root(v)))
            return back(along) / self.sigma_y + (1 + damping) * v

        return conjugate_gradients(applied, back(residual) + self.draw - z, num_steps)


def _gaussian(prior: Prior, measurement: Measurement) -> tuple[Tensor, Callable[[Tensor, float], Tensor]]:
    """m, and what takes (v, power) to C^power v."""
    if isinstance(prior, GaussianFieldPrior):
        field, spectrum = prior, prior.spectrum(measurement.image_shape)
        return field.mean[:, None, None], lambda v, power: field.filter(v, spectrum**power)
    if isinstance(prior, GaussianMixturePrior) and len(prior.weights) == 1:
        one = prior
        return one.means, lambda v, power: one.times_covariance(0, v.flatten(1), power).view_as(v)
    raise UserError(
        "RandomisedMaximumLikelihood needs a Gaussian prior, a GaussianFieldPrior or a mixture of one component, got "
        f"{type(prior).__name__}"
    )
