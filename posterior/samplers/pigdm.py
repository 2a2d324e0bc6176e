"""Pseudoinverse-guided diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.dps import ConditionedDiffusion
from posterior.samplers.reverse_diffusion import DDIM, ReverseStep
from posterior.samplers.schedules import RespacedSigmas, SigmaSchedule


@dataclass(frozen=True)
class PiGDM(ConditionedDiffusion):
    """PiGDM: a step of reverse diffusion, and with it one along r^2 times the gradient of log p(y | x).

    Source: Song, Vahdat, Mardani, Kautz, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023,
    Algorithm 1, and their form for noisy y, in sigma units. x0 given x is taken for N(D, r^2 I) with
    r^2 = sigma^2 / (1 + sigma^2), its variance if images had variance 1; J = dD/dx:

        x' = step(x, D) + J^T A^T (A A^T + sigma_y^2 / r^2 I)^-1 (y - A D)

    The paper's listing has sqrt(1 + sigma'^2) times this guidance (sqrt(alpha_t) g); the authors' code, InverseBench
    and azula have it as it stands. The authors' code has the form without noise alone, A^+ (y - A D) in place of what
    J^T is applied to, for inpainting also puts y into D where it is seen, and starts at A^+ y + sigma n. InverseBench
    starts at sigma n, ends above level 0, and gives DDIM fresh noise of eta sigma'.

    Args:
        schedule: noise levels (published: 100).
        step: the unguided step (the authors' scripts: DDIM with eta 1).

    Raises:
        UserError: on a call, before any evaluation of the prior, if the operator is not linear or the noise not
            Gaussian.
    """

    schedule: SigmaSchedule = field(default_factory=lambda: RespacedSigmas(100))
    step: ReverseStep = field(default_factory=lambda: DDIM(1.0))

    def advance(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float, sigma_next: float, rng: Streams
    ) -> Tensor:
        measurement.linear_operator("PiGDM")
        measurement.gaussian_sigma("PiGDM")
        denoised, fraction, guidance = self.look(prior, measurement, x, sigma)
        step = self.step(x, denoised, fraction, sigma, sigma_next, partial(rng.randn_like, "pigdm", x))
        return step + guidance

    def look(
        self, prior: Prior, measurement: Measurement, x: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """D(x, sigma), the prior's variance fraction, and the guidance, (R, C, H, W)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised, fraction = prior.predict(x, sigma)
            pull = self.pull(measurement, denoised.detach(), sigma)
            (guidance,) = torch.autograd.grad(denoised, x, pull)
        return denoised.detach(), None if fraction is None else fraction.detach(), guidance

    def pull(self, measurement: Measurement, denoised: Tensor, sigma: float) -> Tensor:
        """What y asks of D, given x0 as N(D, r^2 I), (R, C, H, W)."""
        return measurement.proximal(denoised, sigma / (1 + sigma**2) ** 0.5) - denoised
