"""Fit of closure quantities: what is left of an interferometer's data when no gain is trusted."""

from __future__ import annotations

from torch import Tensor

from posterior.closures import ClosureFit, closure_fit
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics.base import ImageMetric
from posterior.operators.interferometry import GainedVisibilities


def fit_of(x: Tensor, measurement: Measurement, who: str) -> ClosureFit:
    """`closure_fit` of a measurement and of images x (B, 1, H, W).

    Raises:
        UserError: naming ``who``, if the measurement is not of visibilities.
    """
    if not isinstance(measurement.operator, GainedVisibilities):
        raise UserError(f"{who} needs visibilities of the source (EHTGains), got {type(measurement.operator).__name__}")
    return closure_fit(measurement.y, measurement.observed(x), measurement.likelihood.sigma_y)


class ClosurePhaseChi2(ImageMetric):
    """chi^2 of the closure phases over their number, with their full covariance: about 1 for the truth."""

    name = "chi2_cphase"
    needs_truth = False
    channels = (1,)

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        fit = fit_of(x, measurement, "ClosurePhaseChi2")
        return (fit.phases.sum(dim=1) / fit.num_phases).to(x)


class ClosureAmplitudeChi2(ImageMetric):
    """chi^2 of the log closure amplitudes over their number, with their full covariance: about 1 for the truth."""

    name = "chi2_logcamp"
    needs_truth = False
    channels = (1,)

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        fit = fit_of(x, measurement, "ClosureAmplitudeChi2")
        return (fit.amplitudes.sum(dim=1) / fit.num_amplitudes).to(x)
