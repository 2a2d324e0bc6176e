"""A measurement in the coordinates of its operator's singular vectors, A = U diag(s) V^T."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import UserError
from posterior.measurement import Measurement

LEAST_GAIN = 1e-8
"""Of s^2 over its largest: below it s is rounding, and what is measured there is noise ten thousand times the image."""


@dataclass(frozen=True)
class Spectrum:
    """What a measurement says of each coordinate of xbar = V^T x: ybar = xbar + sigma_y / s n where s > 0.

    Args:
        s: singular values, 0 where a coordinate is not observed, (R, C, H, W).
        ybar: U^T y / s, 0 where a coordinate is not observed, (R, C, H, W).
        sigma_y: noise level of y.
        analyse, synthesise: V^T x and V xbar, (B, C, H, W) for any B.
    """

    s: Tensor
    ybar: Tensor
    sigma_y: float
    analyse: Callable[[Tensor], Tensor]
    synthesise: Callable[[Tensor], Tensor]

    @property
    def observed(self) -> Tensor:
        """Where s > 0, (R, C, H, W)."""
        return self.s > 0

    @property
    def noise(self) -> Tensor:
        """sigma_y / s, the noise level of ybar; infinite where a coordinate is not observed, (R, C, H, W)."""
        return self.sigma_y / self.s


def spectrum(measurement: Measurement, who: str) -> Spectrum:
    """The measurement's `Spectrum`, from the basis in which A^T A is diagonal (`LinearOperator.diagonal`).

    Raises:
        UserError: naming ``who`` needs it, if A is not linear, its singular vectors are not known, or the noise is not
            Gaussian.
    """
    operator, sigma_y = measurement.linear_operator(who), measurement.gaussian_sigma(who)
    with waits.inside("operator basis"):
        basis = operator.diagonal()
    if basis is None:
        raise UserError(
            f"{who} needs the singular values of its operator, {type(operator).__name__} has none that are fast: take "
            "inpainting, a Gaussian blur, super-resolution, a subsampled transform, single-coil MRI, or a dense matrix "
            "of at most 4096 columns"
        )
    back = basis.analyse(operator.adjoint(measurement.y))
    gains = basis.gains.expand_as(back)
    gains = gains.where(gains > LEAST_GAIN * gains.amax(dim=(1, 2, 3), keepdim=True), 0)
    ybar = torch.where(gains > 0, back / gains, 0)
    return Spectrum(gains.sqrt(), ybar, sigma_y, basis.analyse, basis.synthesise)
