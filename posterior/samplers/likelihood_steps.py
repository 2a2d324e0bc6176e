"""Steps that bring y in, where x0 is known as a Gaussian ball: the inner steps of DAPS and of split Gibbs samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators.base import LinearOperator
from posterior.random import Streams


class LikelihoodStep(ABC):
    """A draw of w from p(y | w) N(w; center, radius^2 I) up to its constant, or a chain towards it from the center."""

    @abstractmethod
    def check(self, measurement: Measurement) -> None:
        """Refuse a measurement that the step is not for.

        Raises:
            UserError: naming the step.
        """

    @abstractmethod
    def __call__(self, measurement: Measurement, center: Tensor, radius: float, done: float, rng: Streams) -> Tensor:
        """w, (R, C, H, W).

        Args:
            measurement: R rows.
            center: (R, C, H, W).
            radius: > 0, in units of the data.
            done: share of the sampler's steps that lie behind this one, in [0, 1).
            rng: the R rows' random streams.
        """


@dataclass(frozen=True)
class ExactLikelihoodStep(LikelihoodStep):
    """The draw itself, for linear A and Gaussian noise: y and the center get their noise, and w minimises.

        w = argmin ||y + sigma_y n - A w||^2 / sigma_y^2 + ||center + radius n' - w||^2 / radius^2

    Source: Papandreou and Yuille, "Gaussian sampling by local perturbations", NeurIPS 2010. The minimum is in closed
    form where A^T A is diagonal in a known basis, otherwise by at most 100 steps of conjugate gradients
    (`LinearOperator.solve`), which are enough where radius ||A|| is below 16 sigma_y.
    """

    def check(self, measurement: Measurement) -> None:
        who = "ExactLikelihoodStep, unlike LangevinSteps,"
        measurement.linear_operator(who)
        measurement.gaussian_sigma(who)

    def __call__(self, measurement: Measurement, center: Tensor, radius: float, done: float, rng: Streams) -> Tensor:
        sigma_y = measurement.gaussian_sigma("ExactLikelihoodStep")
        noisy = measurement.y + sigma_y * rng.randn_like("exact step, y", measurement.y)
        moved = center + radius * rng.randn_like("exact step, center", center)
        return replace(measurement, y=noisy).proximal(moved, radius)


@dataclass(frozen=True)
class ChainSteps(LikelihoodStep):
    """A chain from the center; the kinds are its subclasses. Any operator and noise law will do.

    Args:
        num_steps: >= 1.
        step_size: > 0, the variance of what a step adds, or half of it.
        final_share: in (0, 1]: over the sampler's steps the step size falls linearly to this share of it.
        tau: the noise level of y by which the chain goes, > 0; None: the measurement's own law.

    Raises:
        UserError: if a number is out of range.
    """

    num_steps: int = 100
    step_size: float = 1e-4
    final_share: float = 1.0
    tau: float | None = None

    def __post_init__(self) -> None:
        who = type(self).__name__
        whole(who, "num_steps", self.num_steps, 1, MOST_STEPS)
        real(who, "step_size", self.step_size, above=0)
        real(who, "final_share", self.final_share, above=0, most=1)
        if self.tau is not None:
            real(who, "tau", self.tau, above=0)

    def check(self, measurement: Measurement) -> None:
        """Nothing is refused."""

    def __call__(self, measurement: Measurement, center: Tensor, radius: float, done: float, rng: Streams) -> Tensor:
        if self.tau is not None:
            measurement = replace(measurement, likelihood=GaussianNoise(self.tau))
        return self.chain(measurement, center, radius, self.size(done), rng)

    def size(self, done: float) -> float:
        """The step size when a share of the sampler's steps is done."""
        return self.step_size * (1 + done * (self.final_share - 1))

    def drift(self, measurement: Measurement, w: Tensor, center: Tensor, radius: float) -> Tensor:
        """Gradient of log p(y | w) N(w; center, radius^2 I), (R, C, H, W)."""
        return measurement.log_likelihood_grad(w) + (center - w) / radius**2

    @abstractmethod
    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        """The last state, (R, C, H, W)."""


@dataclass(frozen=True)
class LangevinSteps(ChainSteps):
    """w <- w + h drift + sqrt(2 h) n, without rejection: a direction of curvature L is too wide by h L / 4 and more.

    It diverges where h L > 2; L is ||A||^2 / tau^2 and more. With the published h = 1e-4 and tau = 0.01 that is where
    ||A|| > 1.4: such steps are refused where A is linear.

    Source: Zhang et al. (DAPS), CVPR 2025, arXiv:2407.01521, Algorithm 1. The authors' code has the data term twice:
    its tau is sqrt(2) times the one here.
    """

    def check(self, measurement: Measurement) -> None:
        """Refuse steps that diverge, of linear A and Gaussian noise.

        Raises:
            UserError: naming the largest step that does not.
        """
        noise = measurement.likelihood if self.tau is None else GaussianNoise(self.tau)
        if isinstance(measurement.operator, LinearOperator) and isinstance(noise, GaussianNoise):
            most = 2 * (noise.sigma_y / max(measurement.operator.norm_bound(), 1e-12)) ** 2
            if self.step_size > most:
                raise UserError(
                    f"LangevinSteps: step_size {self.step_size:g} diverges with this operator: take {most:.3g} at "
                    "most, 2 (tau / ||A||)^2, or a larger tau"
                )

    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        w = center
        for _ in range(self.num_steps):
            drift = self.drift(measurement, w, center, radius)
            w = w + step_size * drift + (2 * step_size) ** 0.5 * rng.randn_like("langevin", w)
        return w


@dataclass(frozen=True)
class MetropolisSteps(ChainSteps):
    """w <- w + sqrt(h) n, or w again: a random walk with Metropolis' rule, which needs no gradient. Exact, and slow.

    Source: Zhang et al. (DAPS), CVPR 2025, arXiv:2407.01521, appendix. A row is moved or not as a whole.
    """

    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        w, terms = center, self.terms(measurement, center, center, radius)
        for _ in range(self.num_steps):
            moved = w + step_size**0.5 * rng.randn_like("proposal", w)
            terms_moved = self.terms(measurement, moved, center, radius)
            gain = (terms - terms_moved).sum(dim=1).view(-1, 1, 1, 1)
            accept = rng.rand_like("acceptance", gain).log() < gain
            w = torch.where(accept, moved, w).where(~gain.isnan(), torch.nan)
            terms = torch.where(accept.flatten(1), terms_moved, terms)
        return w

    def terms(self, measurement: Measurement, w: Tensor, center: Tensor, radius: float) -> Tensor:
        """Those whose sum is -log p(y | w) N(w; center, radius^2 I), (R, n): small differences of them are exact."""
        of_y = (measurement.y - measurement.observed(w)) ** 2 / measurement.likelihood.variance(measurement.y)
        return torch.cat([of_y.flatten(1), ((w - center) / radius).flatten(1) ** 2], dim=1) / 2


@dataclass(frozen=True)
class HamiltonianSteps(ChainSteps):
    """v <- momentum v + sqrt(h) drift + sqrt(2 (1 - momentum)) n, w <- w + sqrt(h) v: dynamics with friction.

    Source: Zhang et al. (DAPS), CVPR 2025, arXiv:2407.01521, appendix: their Hamiltonian Monte Carlo, which rejects
    nothing. As steps get short it is Langevin dynamics of step h / (1 - momentum), and by that noise w has the right
    law; with 1 - momentum^2, by which v would have variance 1, that of w would be (1 + momentum) / 2 of the right one.
    The authors' code has the data term twice, as `LangevinSteps` says.

    Args:
        momentum: share of the velocity that a step keeps, in [0, 1).
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        real("HamiltonianSteps", "momentum", self.momentum, least=0, below=1)

    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        w, v, fresh = center, rng.randn_like("velocity", center), (2 * (1 - self.momentum)) ** 0.5
        for _ in range(self.num_steps):
            drift = self.drift(measurement, w, center, radius)
            v = self.momentum * v + step_size**0.5 * drift + fresh * rng.randn_like("langevin", w)
            w = w + step_size**0.5 * v
        return w
