"""Plug-and-play diffusion models by split Gibbs sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.likelihood_steps import ExactLikelihoodStep, LikelihoodStep, balls
from posterior.samplers.reverse_diffusion import ReverseStep
from posterior.samplers.schedules import KarrasSigmas, SigmaSchedule


@dataclass(frozen=True)
class EulerMaruyama(ReverseStep):
    """The reverse SDE by Euler's method: x' = x - 2 (1 - sigma' / sigma) (x - D) + sqrt(2 sigma (sigma - sigma')) n.

    Source: Karras et al., NeurIPS 2022, equation (6) with beta = 1 / sigma, as the PnP-DM code has it: its last step is
    without noise, and gives 2 D - x. `Ancestral` is the same SDE, solved for a D that stands still.
    """

    def moments(
        self, x: Tensor, denoised: Tensor, fraction: Tensor | None, sigma: float, sigma_next: float
    ) -> tuple[Tensor, Tensor | float]:
        mean = x - 2 * (1 - sigma_next / sigma) * (x - denoised)
        return mean, (2 * sigma * (sigma - sigma_next)) ** 0.5 if sigma_next > 0 else 0.0


@dataclass(frozen=True)
class PnPDM(Sampler):
    """PnP-DM: draws of z given x and y, and of x given z, in turn, while x and z are tied ever closer.

    Source: Wu, Sun, Chen, Zhang, Yue, Bouman, "Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play
    Priors", NeurIPS 2024, arXiv:2405.18782, Algorithm 1, a split Gibbs sampler (Vono et al. 2019). With
    rho_k = max(rho_min, rho decay^k):

        z ~ p(y | z) N(z; x, rho_k^2 I),  x ~ p(x) N(z; x, rho_k^2 I), by reverse diffusion from z at sigma = rho_k

    At a fixed rho and with exact steps x comes to be of p(x | y) for a y whose noise has the covariance
    sigma_y^2 I + rho^2 A A^T: that of y as rho falls, but then the chain moves slowly. The result is the last x; the
    authors take many, after a burn-in. Their code starts the reverse diffusion from z at the first level below rho;
    InverseBench's at the first one above, and with the step of the level before, so that noise is left. Its Langevin
    steps go by tau = 0.01 where sigma_y is 0.05.

    Args:
        num_iterations: k = 0, 1, ... below this, so many that rho_k falls to rho_min.
        rho, rho_min, decay: as above; rho >= rho_min > 0, decay in (0, 1].
        schedule: noise levels of the reverse diffusion; those below rho_k are taken.
        step: of the reverse diffusion (the authors': `EulerMaruyama`, or `DDIM` with eta 0).
        likelihood_step: the draw of z (`ExactLikelihoodStep` for linear A, otherwise a chain such as `LangevinSteps`).

    Raises:
        UserError: if a number is out of range, or rho does not fall to rho_min; on a call, before any network call, if
            a level is outside the prior's range, or the step is not for the measurement.
    """

    num_iterations: int = 100
    rho: float = 10.0
    rho_min: float = 0.1
    decay: float = 0.9
    schedule: SigmaSchedule = field(default_factory=lambda: KarrasSigmas(100, 80.0, 0.0101))
    step: ReverseStep = field(default_factory=EulerMaruyama)
    likelihood_step: LikelihoodStep = field(default_factory=ExactLikelihoodStep)

    def __post_init__(self) -> None:
        whole("PnPDM", "num_iterations", self.num_iterations, 1, MOST_STEPS)
        real("PnPDM", "rho_min", self.rho_min, above=0)
        real("PnPDM", "rho", self.rho, least=self.rho_min)
        real("PnPDM", "decay", self.decay, above=0, most=1)
        if (last := self.rhos()[-1]) > self.rho_min * (1 + 1e-9):
            raise UserError(
                f"PnPDM: rho ends at {last:.3g}, above rho_min {self.rho_min:g}, where x is far from p(x | y): take "
                f"more than num_iterations {self.num_iterations}, or a smaller decay"
            )

    def rhos(self) -> list[float]:
        """rho_k."""
        return [max(self.rho_min, self.rho * self.decay**k) for k in range(self.num_iterations)]

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        rhos = self.rhos()
        steps = balls(rhos)
        self.likelihood_step.check(measurement, steps)
        for level in (rhos[0], *self.schedule.below(rhos[-1])[:-1]):
            prior.check_range(level)
        x = rng.randn("initial", measurement.image_shape)
        for k, ball in enumerate(steps, start=1):
            z = self.likelihood_step(measurement, x, ball, rng)
            x = self.denoise(prior, z, self.schedule.below(ball.radius), rng)
            observe("PnP-DM", k, len(rhos), x)
        return check_finite(x, rng, "PnP-DM")

    def denoise(self, prior: Prior, z: Tensor, sigmas: list[float], rng: Streams) -> Tensor:
        """A draw of x0 given x0 + sigma n = z, sigma the first of the levels, (R, C, H, W)."""
        x = z
        for sigma, sigma_next in pairwise(sigmas):
            denoised, fraction = prior.predict(x, sigma)
            x = self.step(x, denoised, fraction, sigma, sigma_next, partial(rng.randn_like, "pnp-dm", x))
        return x
