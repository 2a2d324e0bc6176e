"""A denoiser that is told y, and the descent with it: samples of p(x | y) by forward calls alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators.base import LinearOperator, conjugate_gradients, inner
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Ending, Observer, Sampler, check_finite, clipped, unobserved
from posterior.samplers.reverse_diffusion import ReverseStep, SecondOrderAncestral, initial_noise
from posterior.samplers.schedules import GeometricSigmas, SigmaSchedule

SHORTEST, LONGEST = 0.05, 3.0
"""Bounds on the length of a secant, root mean square over an image, in units of sigma."""
NEAR = 0.01
"""Length of a secant of A, root mean square over an image; numbers of an image are about 1."""
APART = 1.2
"""Least ratio of the level at which a descent begins to the next: the change of D between near ones tells no slope."""
LEFT_STEPS = 10
"""Of conjugate gradients without a network call, where what is left of a residual has no closed form."""


@dataclass(frozen=True)
class ConditionalDenoiser:
    """D_y(x, sigma), about E[x0 | x0 + sigma n = x, y]: a prior's denoiser that is told a measurement as well.

    Source: docs/method.md section 9. Given x, x0 is taken for N(D, sigma^2 J) with J = dD/dx (Tweedie's second
    formula), and that Gaussian is conditioned on y:

        D_y = D + sigma^2 J A^T v,    M v = y - A D,    M = V + sigma^2 A J A^T

    V is the variance of the noise, sigma_y^2 I if it is Gaussian, else that at A D; where A is not linear, its Jacobian
    at D stands for it. v comes from a few steps of conjugate gradients, each for one forward call; what they leave of
    the residual is moved by J = I. Exact for Gaussian priors, linear A and Gaussian noise, with steps enough. Forward
    calls only, and the prior counts them.

    The law that it denoises is p * N(0, sigma_min^2 I): the prior's own where sigma_min is 0. A network's lowest level
    stays in its images, since below it nothing is known of p.

    Args:
        prior: p(x).
        measurement: R rows.
        clip_denoised: clip D to [-1, 1].
    """

    prior: Prior
    measurement: Measurement
    clip_denoised: bool = False

    def denoise(self, x: Tensor, sigma: float, num_steps: int = 2) -> Tensor:
        """D_y(x, sigma), (R, C, H, W), for 1 + num_steps calls; see `condition`."""
        return self.condition(x, sigma, num_steps)[0]

    def unconditioned(self, x: Tensor, sigma: float) -> Tensor:
        """E[z | z + sigma n = x] of z ~ p * N(0, sigma_min^2 I), (R, C, H, W): D at the level of both noises."""
        share = self.prior.sigma_min**2 / (sigma**2 + self.prior.sigma_min**2)
        denoised = self.prior.denoise(x, (sigma**2 + self.prior.sigma_min**2) ** 0.5 if share > 0 else sigma)
        denoised = clipped(denoised) if self.clip_denoised else denoised
        return denoised + share * (x - denoised) if share > 0 else denoised

    def condition(
        self, x: Tensor, sigma: float, num_steps: int, before: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """D_y(x, sigma), and the steps that conjugate gradients took, (R, 1, 1, 1) each.

        J u is a secant, (D(x + h u) - D(x)) / h. D(x + sigma^2 b) is the mean of p(x0 | x) tilted by exp(<b, x0>), so
        it is read where the step may be expected to end, at h = sigma^2 times the step taken at the level before: that
        finds modes that a derivative does not see.

        Args:
            x: state at sigma, (R, C, H, W).
            sigma: > 0.
            num_steps: of conjugate gradients, >= 0.
            before: the steps taken at the level before; where there is none, a secant has the length sigma.
        """
        operator = self.measurement.operator
        denoised = found = self.unconditioned(x, sigma)
        clean = self.measurement.observed(denoised)
        variance = self.measurement.likelihood.variance(clean)
        residual = direction = operator.restrict(self.measurement.y - clean)
        rho, steps = inner(residual, residual), []
        for number in range(num_steps):
            u = operator.vjp(denoised, direction)
            unit = sigma / (inner(u, u) / u[0].numel()).sqrt().clamp_min(1e-12)  # h u then has the length sigma
            h = unit if number >= len(before) else (sigma**2 * before[number]).clamp(SHORTEST * unit, LONGEST * unit)
            moved = (self.unconditioned(x + h * u, sigma) - denoised) / h  # J u
            applied = variance * direction + sigma**2 * self.jvp(denoised, clean, moved)  # M p
            curvature = torch.maximum(inner(direction, applied), inner(direction, variance * direction))
            step = rho / curvature.clamp_min(1e-30)  # J of a network is not quite >= 0
            steps.append(step.view(-1, 1, 1, 1))
            found = found + sigma**2 * steps[-1] * moved
            residual = residual - step * applied
            rho_before, rho = rho, inner(residual, residual)
            direction = residual + rho / rho_before.clamp_min(1e-30) * direction
        return found + self._left(residual, variance, sigma), steps

    def jvp(self, x: Tensor, clean: Tensor, v: Tensor) -> Tensor:
        """A v, (R, *measurement_shape); where A is not linear, its Jacobian at x times v, by a short secant.

        Args:
            x: where, (R, C, H, W).
            clean: A x.
            v: (R, C, H, W).
        """
        if isinstance(self.measurement.operator, LinearOperator):
            return self.measurement.observed(v)
        h = NEAR / (inner(v, v) / v[0].numel()).sqrt().clamp_min(1e-12)
        return (self.measurement.observed(x + h * v) - clean) / h

    def _left(self, residual: Tensor, variance: Tensor | float, sigma: float) -> Tensor | float:
        """Where a residual r moves an image if J = I: sigma^2 A^T (V + sigma^2 A A^T)^-1 r, (R, C, H, W).

        0 where A is not linear: its Jacobian at D is no guide as far as that.
        """
        operator = self.measurement.operator
        if not isinstance(operator, LinearOperator):
            return 0.0
        if isinstance(variance, float):
            return operator.damped_inverse(residual, variance / sigma**2)

        def applied(p: Tensor) -> Tensor:
            return variance * p + sigma**2 * operator.forward(operator.adjoint(p))

        return sigma**2 * operator.adjoint(conjugate_gradients(applied, residual, LEFT_STEPS))


@dataclass(frozen=True)
class ConditionalDescent(Sampler, Ending):
    """Samples of p(x | y): a search for the mode, then ancestral descents, all with the denoiser that is told y.

    Source: docs/method.md section 9. Related: Rozet et al., NeurIPS 2024 (the same conditional mean, by backward
    calls); Zhang et al., "DAPS", 2024 (re-noising). At each level of the search x = D_y + sigma' n, all noise fresh; at
    its end sigma' is the first level of the descent. That state is too narrow where the posterior is wide: D_y is a
    mean. So a descent goes as far as `turn`, and forward noise leads back to the first level: were D_y exact, such a
    cycle would leave p(x_s | y) as it is, and it draws other laws of x_s towards it. The last descent is reverse
    diffusion with D_y for D, and ends with x0 = (D_y + x) / 2, which has the variance of the posterior where that is
    well above the last level's. The samples are of p * N(0, sigma_min^2 I), see `ConditionalDenoiser`.

    Args:
        search: levels above 0; None: from 2 to 0.7, as many as `calls` allows.
        descent: levels above 0.
        calls: forward calls a sample, at most: the descents take what they need (49, and 15 a cycle), the search the
            rest. More of them put modes in righter shares (docs/conditional.md).
        cycles: descents to `turn` and back, before the one that goes to the end.
        turn: a cycle ends at the first level of the descent that is not above this.
        num_steps: of conjugate gradients in a level, one call each.
        one_step_below: levels of the descent below this take one step.
        step: of the descent.
        clip_search: clip D to [-1, 1] in the search (it biases priors that leave the range).
        final_denoising: denoise the samples once more, D(x, sigma_min): pictures to look at or to score, no samples.

    Raises:
        UserError: if a number is out of range, or `calls` leaves less than two levels for the search; on a call, before
            any network call, if a level is outside the prior's range.
    """

    search: SigmaSchedule | None = None
    descent: SigmaSchedule = field(default_factory=lambda: GeometricSigmas(20, 1.0, 0.003))
    calls: int = 121
    cycles: int = 1
    turn: float = 0.25
    num_steps: int = 2
    one_step_below: float = 0.08
    step: ReverseStep = field(default_factory=SecondOrderAncestral)
    clip_search: bool = False
    final_denoising: bool = False

    def __post_init__(self) -> None:
        whole("ConditionalDescent", "num_steps", self.num_steps, 1, MOST_STEPS)
        real("ConditionalDescent", "one_step_below", self.one_step_below, least=0)
        whole("ConditionalDescent", "calls", self.calls, 1, MOST_STEPS)
        whole("ConditionalDescent", "cycles", self.cycles, 0, MOST_STEPS)
        real("ConditionalDescent", "turn", self.turn, above=0)
        start, *_ = self.descent.sigmas()
        if start == 0 or (self.search is not None and self.search.sigmas()[0] == 0):
            raise UserError("ConditionalDescent: search and descent need a level above 0")
        if self.cycles and self.turn >= start:
            raise UserError(
                f"ConditionalDescent: turn {self.turn:g} is not below the first level of the descent, {start:g}"
            )
        self.search_levels()

    def search_levels(self) -> list[float]:
        """Of the search, falling."""
        if self.search is not None:
            return self.search.sigmas()[:-1]
        cost = [1 + self.steps_at(sigma) for sigma in self.descent.sigmas()[:-1]]
        spent = sum(cost) + self.cycles * sum(cost[: len(self.cycle_levels()) - 1])
        num_levels = (self.calls - spent) // (1 + self.num_steps)
        if num_levels < 2:
            least = spent + 2 * (1 + self.num_steps)
            raise UserError(f"ConditionalDescent: calls must be at least {least} with this descent, got {self.calls}")
        return GeometricSigmas(num_levels, 2.0, 0.7).sigmas()[:-1]

    def cycle_levels(self) -> list[float]:
        """Of the descent, from its first to the one at which a cycle turns."""
        *levels, _ = self.descent.sigmas()
        return levels[: sum(sigma > self.turn for sigma in levels) + 1]

    def steps_at(self, sigma: float) -> int:
        """Steps of conjugate gradients in a level of the descent."""
        return self.num_steps if sigma > self.one_step_below else 1

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        told = ConditionalDenoiser(prior, measurement)
        levels = self.search_levels()
        start, *_ = self.descent.sigmas()
        for sigma in (levels[0], start):
            prior.check_range((sigma**2 + prior.sigma_min**2) ** 0.5)
        x = initial_noise(measurement.image_shape, levels[0], rng)
        steps: list[Tensor] = []
        searching = replace(told, clip_denoised=self.clip_search)
        for index, (sigma, sigma_next) in enumerate(pairwise([*levels, start]), start=1):
            denoised, steps = searching.condition(x, sigma, self.num_steps, steps)
            x = denoised + sigma_next * rng.randn_like("search", x)
            observe("search", index, len(levels), x)
        x = check_finite(x, rng, "search")
        down = self.cycle_levels()
        for _ in range(self.cycles):
            x = self.descend(told, x, down, steps, rng, observe, "cycle")
            x = x + (start**2 - down[-1] ** 2) ** 0.5 * rng.randn_like("cycle", x)
        return self._finished(told, x, self.descent.sigmas(), steps, rng, observe)

    @torch.no_grad()
    def from_level(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        sigma: float,
        rng: Streams,
        observe: Observer = unobserved,
    ) -> Tensor:
        """A sample of p(z | z + t n = x, y), z ~ p * N(0, sigma_min^2 I), t^2 = sigma^2 - sigma_min^2, (R, C, H, W).

        That is the descent alone, from t through its own levels below t. At sigma_min x is such a z, and stays as it
        is (`check_level` refuses a chain that ends there).
        """
        t = max(sigma**2 - prior.sigma_min**2, 0.0) ** 0.5
        levels = [t, *(level for level in self.descent.sigmas() if level * APART <= t)] if t > 0 else [0.0]
        return self._finished(ConditionalDenoiser(prior, measurement), x, levels, [], rng, observe)

    def check_level(self, prior: Prior, sigma: float) -> None:
        if sigma <= prior.sigma_min:
            raise UserError(f"ending ConditionalDescent needs a score_sigma above the prior's {prior.sigma_min:g}")

    def _finished(
        self,
        told: ConditionalDenoiser,
        x: Tensor,
        levels: Sequence[float],
        steps: Sequence[Tensor],
        rng: Streams,
        observe: Observer,
    ) -> Tensor:
        """The last descent; denoised once more, if asked for."""
        x = check_finite(self.descend(told, x, levels, steps, rng, observe), rng, "descent")
        return told.prior.denoise(x, told.prior.sigma_min) if self.final_denoising else x

    def descend(
        self,
        told: ConditionalDenoiser,
        x: Tensor,
        levels: Sequence[float],
        steps: Sequence[Tensor],
        rng: Streams,
        observe: Observer = unobserved,
        stage: str = "descent",
    ) -> Tensor:
        """From x at the first of the levels, (R, C, H, W), to the last; samples where that is 0.

        Args:
            told: the denoiser.
            x: where it starts.
            levels: falling.
            steps: of conjugate gradients, those of a level near the first.
            rng: the rows' streams.
            observe: sees every state.
            stage: what it calls them.
        """
        before = None
        for index, (sigma, sigma_next) in enumerate(pairwise(levels), start=1):
            denoised, steps = told.condition(x, sigma, self.steps_at(sigma), steps)
            if sigma_next == 0:
                x = (denoised + x) / 2
            else:
                estimate, before = self.step.estimate(denoised, before, sigma, sigma_next), (denoised, sigma)
                x = self.step(x, estimate, None, sigma, sigma_next, partial(rng.randn_like, "descent", x))
            observe(stage, index, len(levels) - 1, x)
        return x
