"""Exact posterior samples for a Gaussian field and a linear operator: the yardstick of the other samplers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators.base import inner
from posterior.priors.base import Prior
from posterior.priors.gaussian import GaussianFieldPrior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved


@dataclass(frozen=True)
class ExactGaussian(Sampler):
    """Samples of p(x | y) for a `GaussianFieldPrior`, a linear operator and Gaussian noise, by perturbed solves.

    A draw of the prior is corrected by the posterior mean of what its own measurement misses (Hoffman and Ribak,
    ApJ 1991; Papandreou and Yuille, NeurIPS 2010); the mean solves (C^-1 + A^T A / sigma_y^2) x = A^T y / sigma_y^2
    by conjugate gradients, preconditioned in Fourier space, every row on its own (docs/method.md section 6).

    Args:
        tolerance: relative residual at which a row's solve stops, in (0, 1).
        max_steps: iterations after which it is an error, >= 1.

    Raises:
        UserError: if a number is out of range; on a call, if the prior is another one, the operator is not linear, or
            a solve does not converge.
    """

    tolerance: float = 1e-5
    max_steps: int = 2000

    def __post_init__(self) -> None:
        real("ExactGaussian", "tolerance", self.tolerance, above=0, below=1, smallest=1e-30)
        whole("ExactGaussian", "max_steps", self.max_steps, 1, MOST_STEPS)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        prior = _gaussian(prior)
        draw = prior.sample_from(rng.randn("exact prior", measurement.image_shape, prior.mean.dtype))
        noise = rng.randn("exact noise", measurement.y.shape[1:], measurement.y.dtype)
        predicted = measurement.likelihood.sample(measurement.operator.forward(draw), noise)
        innovation = measurement.operator.restrict(measurement.y - predicted)
        return check_finite(draw + self._correction(prior, measurement, innovation, observe), rng, "the exact solve")

    @torch.no_grad()
    def mean(self, prior: Prior, measurement: Measurement, observe: Observer = unobserved) -> Tensor:
        """The exact posterior mean E[x | y], (B, C, H, W).

        Raises:
            UserError: as a call does.
        """
        prior = _gaussian(prior)
        constant = prior.mean[:, None, None].expand(len(measurement.y), *measurement.image_shape)
        innovation = measurement.y - measurement.operator.forward(constant)
        mean = constant + self._correction(prior, measurement, innovation, observe)
        if not waits.fetch("finite?", torch.isfinite(mean).all()):
            raise UserError("ExactGaussian: the posterior mean is not finite; is the measurement?")
        return mean

    def _correction(
        self, prior: GaussianFieldPrior, measurement: Measurement, innovation: Tensor, observe: Observer
    ) -> Tensor:
        """(C^-1 + A^T A / sigma_y^2)^-1 A^T innovation / sigma_y^2."""
        operator = measurement.linear_operator("ExactGaussian")
        sigma_y = measurement.gaussian_sigma("ExactGaussian")
        spectrum = prior.spectrum(measurement.image_shape)

        def precision(x: Tensor) -> Tensor:
            return prior.filter(x, 1 / spectrum) + operator.adjoint(operator.forward(x)) / sigma_y**2

        gain = _radial_gain(measurement)
        inverse = 1 / (1 / spectrum + gain / sigma_y**2)
        b = operator.adjoint(innovation) / sigma_y**2
        x = torch.zeros_like(b)
        residual = b
        direction = z = prior.filter(residual, inverse)
        rho = inner(residual, z)
        target = self.tolerance * inner(b, b) ** 0.5
        active = inner(residual, residual) ** 0.5 > target
        for step in range(1, self.max_steps + 1):
            applied = precision(direction)
            alpha = torch.where(active, rho / inner(direction, applied), 0)  # a finished row stays as it is
            x = x + alpha * direction
            residual = residual - alpha * applied
            z = prior.filter(residual, inverse)
            rho_next = inner(residual, z)
            direction = z + torch.where(active, rho_next / rho, 0) * direction
            rho = torch.where(active, rho_next, rho)
            active = active & (inner(residual, residual) ** 0.5 > target)
            observe("exact solve", step, self.max_steps, x)
            if (step % 10 == 0 or step == self.max_steps) and not waits.fetch("converged?", active.any()):
                return x
        raise UserError(f"ExactGaussian: no convergence to {self.tolerance:g} in {self.max_steps} steps")


def _gaussian(prior: Prior) -> GaussianFieldPrior:
    if not isinstance(prior, GaussianFieldPrior):
        raise UserError(f"ExactGaussian samples only from a GaussianFieldPrior, got {type(prior).__name__}")
    return prior


def _radial_gain(measurement: Measurement, num_bins: int = 64) -> Tensor:
    """A^T A's mean gain by spatial frequency, (B, 1, H, W // 2 + 1), from one white probe image: a preconditioner."""
    operator = measurement.linear_operator("ExactGaussian")
    channels, height, width = measurement.image_shape
    y = measurement.y
    probe = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    probe = waits.to_device("probe image", probe, y).expand(len(y), -1, -1, -1)
    before = torch.fft.rfft2(probe)
    after = torch.fft.rfft2(operator.adjoint(operator.forward(probe)))
    radius = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()).sqrt()
    bins = (radius / radius.max() * (num_bins - 1)).round().long().flatten()
    bins = waits.to_device("probe image", bins, y)

    member = torch.nn.functional.one_hot(bins, num_bins).to(y)  # a product, as index_add on a GPU does not repeat

    def binned(values: Tensor) -> Tensor:
        return values.sum(dim=1).flatten(1) @ member

    gain = binned((before.conj() * after).real) / binned(before.abs().square()).clamp_min(1e-12)
    return gain.clamp_min(0)[:, bins].view(-1, 1, height, width // 2 + 1)
