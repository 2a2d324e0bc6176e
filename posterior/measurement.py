"""A measurement: all that a sampler may know about an image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.noise import GaussianNoise, Likelihood
from posterior.operators.base import LinearOperator, Operator


@dataclass(frozen=True)
class Measurement:
    """y, the realised operator A, and the noise law, for a batch of B images.

    Args:
        y: measurement, (B, *measurement_shape).
        operator: realised operator; its per-image parameters have B rows.
        likelihood: law of y given A x.
    """

    y: Tensor
    operator: Operator
    likelihood: Likelihood

    def __post_init__(self) -> None:
        object.__setattr__(self, "likelihood", self.likelihood.along(self.operator))

    @classmethod
    def simulate(cls, truth: Tensor, operator: Operator, likelihood: Likelihood, noise: Tensor) -> Measurement:
        """Measure images (B, C, H, W) with given standard normal numbers (B, *measurement_shape).

        Entries that the operator does not measure (masked pixels) hold 0 and no noise. The DPS code
        puts noise there too, which enters its residual norm without carrying any information.

        Raises:
            UserError: if the noise law is none for A x, or for A of a white image (`Likelihood.check`).
        """
        clean, likelihood = operator.forward(truth), likelihood.along(operator)
        if likelihood.most is not None:
            name = type(operator).__name__
            likelihood.check(operator.forward(torch.ones_like(truth)), f"A x of {name} for a white image")
            likelihood.check(clean, f"A x of {name}")
        return cls(operator.restrict(likelihood.sample(clean, noise)), operator, likelihood)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the unknown image."""
        return self.operator.image_shape

    def log_likelihood_grad(self, x: Tensor) -> Tensor:
        """Gradient of log p(y | x), (B, C, H, W); for Gaussian noise A^T (y - A x) / sigma_y^2."""
        with torch.autocast(x.device.type, enabled=False):  # the likelihood keeps its precision
            x = _wide(x)
            return self.operator.vjp(x, self.likelihood.score(self.y, self.operator.forward(x)))

    def proximal(self, x: Tensor, sigma: float) -> Tensor:
        """E[x0 | x, y] if x = x0 + sigma n and nothing else is known of x0, (B, C, H, W), sigma > 0.

        x + (A^T A + r I)^-1 A^T (y - A x), r = sigma_y^2 / sigma^2: the proximal step of the data term.

        Raises:
            UserError: if A is not linear or the noise not Gaussian.
        """
        operator, sigma_y = self.linear_operator("a proximal step"), self.gaussian_sigma("a proximal step")
        with torch.autocast(x.device.type, enabled=False):  # r is as small as 1e-7
            x = _wide(x)
            return x + operator.damped_inverse(self.y - operator.forward(x), (sigma_y / sigma) ** 2)

    def distance(self, x: Tensor) -> Tensor:
        """The likelihood's data misfit of images x, (B,); for Gaussian noise ||y - A x||."""
        return self.likelihood.distance(self.y, self.observed(x))

    def observed(self, x: Tensor) -> Tensor:
        """A x without noise, (B, *measurement_shape), in float32 at least."""
        with torch.autocast(x.device.type, enabled=False):
            return self.operator.forward(_wide(x))

    def residual_norm(self, x: Tensor) -> Tensor:
        """||y - A x||, (B,)."""
        return torch.linalg.vector_norm((self.y - self.observed(x)).flatten(1), dim=1)

    def relative_residual(self, x: Tensor) -> Tensor:
        """Root mean square of (y - A x) / std over the m measured entries, (B,): about 1 for the truth.

        The standard deviation is that of the noise at A x. (Under photon noise less than 1 where pictures are black or
        saturated: there counts do not vary, or are cut off.)
        """
        clean = self.observed(x)
        deviation = (self.y - clean) / self.likelihood.variance(clean) ** 0.5
        return torch.linalg.vector_norm(deviation.flatten(1), dim=1) / self.operator.num_measured().to(x.dtype) ** 0.5

    def linear_operator(self, who: str) -> LinearOperator:
        """The operator, if it is linear.

        Raises:
            UserError: naming ``who`` needs it, otherwise.
        """
        if not isinstance(self.operator, LinearOperator):
            raise UserError(f"{who} needs a linear operator, got {type(self.operator).__name__}")
        return self.operator

    def gaussian_sigma(self, who: str) -> float:
        """sigma_y, if the noise is Gaussian of one level.

        Raises:
            UserError: naming ``who`` needs it, otherwise.
        """
        if not isinstance(self.likelihood, GaussianNoise):
            raise UserError(f"{who} needs Gaussian noise, got {type(self.likelihood).__name__}")
        return self.likelihood.sigma_y

    def repeat(self, times: int) -> Measurement:
        """The whole batch ``times`` times over: row k * B + b is image b (as in `posterior.random.Streams`)."""
        index = torch.arange(len(self.y), device=self.y.device).repeat(times)
        return self.rows(index)

    def rows(self, index: Tensor) -> Measurement:
        """The measurements of the rows ``index``."""
        return replace(
            self, y=self.y[index], operator=self.operator.rows(index), likelihood=self.likelihood.rows(index)
        )

    def to(self, device: torch.device | str) -> Measurement:
        """The measurement on another device."""
        return replace(
            self, y=self.y.to(device), operator=self.operator.to(device), likelihood=self.likelihood.to(device)
        )


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
