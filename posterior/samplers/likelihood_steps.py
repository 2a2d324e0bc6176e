"""Steps that bring y in, where x0 is known as a Gaussian ball: the inner steps of DAPS and of split Gibbs samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators.base import LinearOperator
from posterior.random import Streams

MOST_RATIO = 60
"""Of radius and sigma_y / ||A||, up to which 100 steps of conjugate gradients come near: 2 exp(-200 / 60) = 7 %."""


@dataclass(frozen=True)
class Ball:
    """The Gaussian around a center that a sampler hands to a step.

    Args:
        radius: its standard deviation, > 0, in units of the data.
        done: share of the sampler's steps that lie behind it, in [0, 1).
    """

    radius: float
    done: float


def balls(radii: Sequence[float]) -> list[Ball]:
    """Those of a sampler's steps, one after the other."""
    return [Ball(radius, index / len(radii)) for index, radius in enumerate(radii)]


class LikelihoodStep(ABC):
    """A draw of w from p(y | w) N(w; center, radius^2 I) up to its constant, or a chain towards it from the center."""

    @abstractmethod
    def check(self, measurement: Measurement, balls: Sequence[Ball]) -> None:
        """Refuse a measurement that the step is not for.

        Args:
            measurement: R rows.
            balls: all that the step will be asked for.

        Raises:
            UserError: naming the step.
        """

    @abstractmethod
    def __call__(self, measurement: Measurement, center: Tensor, ball: Ball, rng: Streams) -> Tensor:
        """w, (R, C, H, W).

        Args:
            measurement: R rows.
            center: of the ball, (R, C, H, W).
            ball: its radius, and when.
            rng: the R rows' random streams.
        """


@dataclass(frozen=True)
class ExactLikelihoodStep(LikelihoodStep):
    """The draw itself, for linear A and Gaussian noise: y and the center get their noise, and w minimises.

        w = argmin ||y + sigma_y n - A w||^2 / sigma_y^2 + ||center + radius n' - w||^2 / radius^2

    Source: Papandreou and Yuille, "Gaussian sampling by local perturbations", NeurIPS 2010. The minimum is in closed
    form where A^T A is diagonal in a known basis, otherwise by at most 100 steps of conjugate gradients
    (`LinearOperator.solve`), which are enough where radius ||A|| is below 16 sigma_y; above, directions that A hardly
    passes are left where they were. That matters where a chain ends: radii of the last step up to 60 sigma_y / ||A||
    are taken, by which the error bound of the steps has fallen to 7 %.
    """

    def check(self, measurement: Measurement, balls: Sequence[Ball]) -> None:
        """Refuse what it is not for, and an operator of which the last minimum would not be found.

        Raises:
            UserError: if A is not linear or the noise not Gaussian; naming the largest radius.
        """
        who = "ExactLikelihoodStep, unlike LangevinSteps,"
        operator, sigma_y = measurement.linear_operator(who), measurement.gaussian_sigma(who)
        if operator.basis() is None:
            most = MOST_RATIO * sigma_y / max(operator.norm_bound(), 1e-12)
            if balls[-1].radius > most:
                raise UserError(
                    f"ExactLikelihoodStep: a radius of {balls[-1].radius:g} in the end is too large for the conjugate "
                    f"gradients of {type(operator).__name__}: end at {most:.3g} at most, {MOST_RATIO} sigma_y / ||A||"
                )

    def __call__(self, measurement: Measurement, center: Tensor, ball: Ball, rng: Streams) -> Tensor:
        sigma_y = measurement.gaussian_sigma("ExactLikelihoodStep")
        noisy = measurement.y + sigma_y * rng.randn_like("exact step, y", measurement.y)
        moved = center + ball.radius * rng.randn_like("exact step, center", center)
        return replace(measurement, y=noisy).proximal(moved, ball.radius)


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

    def __call__(self, measurement: Measurement, center: Tensor, ball: Ball, rng: Streams) -> Tensor:
        if self.tau is not None:
            measurement = replace(measurement, likelihood=GaussianNoise(self.tau))
        return self.chain(measurement, center, ball.radius, self.size(ball.done), rng)

    def size(self, done: float) -> float:
        """The step size when a share of the sampler's steps is done."""
        return self.step_size * (1 + done * (self.final_share - 1))

    def drift(self, measurement: Measurement, w: Tensor, center: Tensor, radius: float) -> Tensor:
        """Gradient of log p(y | w) N(w; center, radius^2 I), (R, C, H, W)."""
        return measurement.log_likelihood_grad(w) + (center - w) / radius**2

    @abstractmethod
    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        """The last state, (R, C, H, W)."""


class GradientSteps(ChainSteps):
    """Those that follow the gradient without rejection, and diverge where a step is too long."""

    @property
    @abstractmethod
    def most(self) -> float:
        """Step size times curvature above which they diverge."""

    def check(self, measurement: Measurement, balls: Sequence[Ball]) -> None:
        """Refuse steps that diverge, of linear A and Gaussian noise. (Elsewhere they are found when they have.)

        Raises:
            UserError: naming the largest step that does not.
        """
        noise = measurement.likelihood if self.tau is None else GaussianNoise(self.tau)
        if not isinstance(measurement.operator, LinearOperator) or not isinstance(noise, GaussianNoise):
            return
        of_y = (measurement.operator.norm_bound() / noise.sigma_y) ** 2
        worst = max(balls, key=lambda ball: (of_y + ball.radius**-2) * self.size(ball.done))
        reached = (of_y + worst.radius**-2) * self.size(worst.done)
        if reached > self.most:
            least = self.step_size * self.most / reached
            raise UserError(
                f"{type(self).__name__}: step_size {self.step_size:g} diverges with this operator where the radius is "
                f"{worst.radius:.3g}: take {least:.3g} at most, {self.most:g} / (||A||^2 / tau^2 + 1 / radius^2), or a "
                "larger tau"
            )


@dataclass(frozen=True)
class LangevinSteps(GradientSteps):
    """w <- w + h drift + sqrt(2 h) n, without rejection: a direction of curvature L is too wide by h L / 4 and more.

    It diverges where h L > 2; L is ||A||^2 / tau^2 + 1 / radius^2. With the published h = 1e-4 and tau = 0.01 that is
    where ||A|| > 1.4: such steps are refused where A is linear.

    Source: Zhang et al. (DAPS), CVPR 2025, arXiv:2407.01521, Algorithm 1. The authors' code has the data term twice:
    its tau is sqrt(2) times the one here.
    """

    @property
    def most(self) -> float:
        return 2.0

    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        w = center
        for _ in range(self.num_steps):
            drift = self.drift(measurement, w, center, radius)
            w = w + step_size * drift + (2 * step_size) ** 0.5 * rng.randn_like("langevin", w)
        return w


@dataclass(frozen=True)
class MetropolisSteps(ChainSteps):
    """w <- w + sqrt(h) n, or w again: a random walk with Metropolis' rule, which needs no gradient. Exact, and slow.

    Source: Zhang et al. (DAPS), CVPR 2025, arXiv:2407.01521, appendix. A row is moved or not as a whole. Exact for the
    law that gradients follow (`Likelihood.energy`): of photon noise the Gaussian that stands for it.
    """

    def check(self, measurement: Measurement, balls: Sequence[Ball]) -> None:
        """Refuse a noise law that does not state how likely y is.

        Raises:
            UserError: naming it.
        """
        if self.tau is None:
            measurement.likelihood.energy(measurement.y, measurement.y)

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
        of_y = measurement.likelihood.energy(measurement.y, measurement.observed(w))
        return torch.cat([of_y.flatten(1), ((w - center) / radius).flatten(1) ** 2 / 2], dim=1)


@dataclass(frozen=True)
class HamiltonianSteps(GradientSteps):
    """v <- momentum v + sqrt(h) drift + sqrt(2 (1 - momentum)) n, w <- w + sqrt(h) v: dynamics with friction.

    Source: Zhang et al. (DAPS), CVPR 2025, arXiv:2407.01521, appendix: their Hamiltonian Monte Carlo, which rejects
    nothing. As steps get short it is Langevin dynamics of step h / (1 - momentum), and by that noise w has the right
    law; with 1 - momentum^2, by which v would have variance 1, that of w would be (1 + momentum) / 2 of the right one.
    It diverges where h L > 2 (1 + momentum). The authors' code has the data term twice, as `LangevinSteps` says.

    Args:
        momentum: share of the velocity that a step keeps, in [0, 1).
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        real("HamiltonianSteps", "momentum", self.momentum, least=0, below=1)

    @property
    def most(self) -> float:
        return 2 * (1 + self.momentum)

    def chain(self, measurement: Measurement, center: Tensor, radius: float, step_size: float, rng: Streams) -> Tensor:
        w, v, fresh = center, rng.randn_like("velocity", center), (2 * (1 - self.momentum)) ** 0.5
        for _ in range(self.num_steps):
            drift = self.drift(measurement, w, center, radius)
            v = self.momentum * v + step_size**0.5 * drift + fresh * rng.randn_like("langevin", w)
            w = w + step_size**0.5 * v
        return w
