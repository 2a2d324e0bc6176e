"""Filtered back projection, to start tomography from and to compare samples with: an estimate, no prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.checks import choice, real
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators.tomography import RayTransform, Window
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved


@dataclass(frozen=True)
class FilteredBackProjection(Sampler):
    """The inverse of the Radon transform, applied to the rays there are (`RayTransform.filtered_back_projection`).

    It is linear in y and knows no noise. Nothing in it is random, so samples of an image are all alike.

    Args:
        window: of the ramp filter: none (``ramp``), or ``hann``, which damps noise and fine scales.
        outside: value of a picture outside the image, -1 for air: the step to it is no part of what is filtered.

    Raises:
        UserError: if the window is another or a number out of range; on a call, if the operator is no tomography.
    """

    window: Window = "hann"
    outside: float = -1.0

    def __post_init__(self) -> None:
        choice("FilteredBackProjection", "window", self.window, Window)
        real("FilteredBackProjection", "outside", self.outside)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        operator = measurement.operator
        if not isinstance(operator, RayTransform):
            raise UserError(
                f"FilteredBackProjection needs rays, of ParallelBeam or FanBeam, got {type(operator).__name__}"
            )
        above = measurement.y - self.outside * operator.path()
        x = self.outside + operator.filtered_back_projection(above, self.window)
        observe("filtered back projection", 1, 1, x)
        return check_finite(x, rng, "filtered back projection")
