"""Moment matching posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, whole
from posterior.measurement import Measurement
from posterior.operators.base import conjugate_gradients, inner
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.dps import ConditionedDiffusion
from posterior.samplers.reverse_diffusion import Ancestral, ReverseStep
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule


@dataclass(frozen=True)
class MMPS(ConditionedDiffusion):
    """MMPS: reverse diffusion with E[x0 | x, y] in place of D, x0 given x having the covariance sigma^2 J.

    Source: Rozet, Andry, Lanusse, Louppe, "Learning Diffusion Priors from Observations by Expectation Maximization",
    NeurIPS 2024, arXiv:2405.13712. J = dD/dx, by Tweedie's second formula:

        D_y = D + sigma^2 J A^T v,    (sigma_y^2 I + sigma^2 A J A^T) v = y - A D

    v by a few steps of conjugate gradients; J meets a vector by a backward call, the network's graph being kept. Exact
    for Gaussian priors with steps enough. A learned variance is that of p(x), and not used.

    J of a network is not quite symmetric nor >= 0: a direction of negative curvature is taken for one of 0; azula, by
    the same authors, takes GMRES by default, one step. Their benchmark on faces (mmps-benchmark), by GMRES too, adds
    sigma^2 J A^T v to DPS's step instead of to D.

    Args:
        schedule: noise levels (the benchmark: 10, 100 and 1000).
        step: from level to level.
        num_steps: of conjugate gradients in a level, >= 1; num_steps + 1 backward calls (the benchmark: 1 and 5).

    Raises:
        UserError: if num_steps is out of range; on a call, before any evaluation of the prior, if the operator is not
            linear or the noise not Gaussian.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(100))
    step: ReverseStep = field(default_factory=Ancestral)
    num_steps: int = 5

    def __post_init__(self) -> None:
        whole("MMPS", "num_steps", self.num_steps, 1, MOST_STEPS)

    def advance(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> Tensor:
        denoised = self.condition(prior, measurement, x, sigma)
        return self.step(x, denoised, None, sigma, sigma_next, partial(rng.randn_like, "mmps", x))

    def condition(self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float) -> Tensor:
        """D_y(x, sigma), (R, C, H, W)."""
        operator, sigma_y = measurement.linear_operator("MMPS"), measurement.gaussian_sigma("MMPS")
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = prior.denoise(x, sigma)

        def moved(v: Tensor) -> Tensor:  # sigma^2 J A^T v; the graph is kept
            return sigma**2 * torch.autograd.grad(denoised, x, operator.adjoint(v), True)[0]

        def covariance(v: Tensor) -> Tensor:
            spread = operator.forward(moved(v))
            lacking = (-inner(v, spread)).clamp_min(0) / inner(v, v).clamp_min(1e-30)
            return (sigma_y**2 + lacking) * v + spread

        found = denoised.detach()
        residual = operator.restrict(measurement.y - measurement.observed(found))
        return found + moved(conjugate_gradients(covariance, residual, self.num_steps))
