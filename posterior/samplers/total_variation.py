"""Regularisation by total variation, to compare posterior samples with: an estimate, no prior, no network call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior.checks import MOST_STEPS, real, whole
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved


@dataclass(frozen=True)
class TotalVariation(Sampler):
    """argmin_x ||y - A x||^2 / (2 sigma_y^2) + weight TV(x); TV sums the lengths of gradients, all channels in one.

    Rudin, Osher and Fatemi, Physica D 1992; for colours as in Bresson and Chan, Inverse Problems and Imaging 2008.
    Solved by the primal-dual steps of Condat, J. Optim. Theory Appl. 2013 (algorithm 3.1, relaxation 1). Every row on
    its own; nothing in it is random, so samples of an image are all alike.

    Args:
        weight: > 0, of numbers in [-1, 1] and pixels of side 1.
        num_steps: >= 1.

    Raises:
        UserError: if a number is out of range; on a call, if A is not linear or the noise not Gaussian.
    """

    weight: float = 10.0
    num_steps: int = 500

    def __post_init__(self) -> None:
        real("TotalVariation", "weight", self.weight, above=0)
        whole("TotalVariation", "num_steps", self.num_steps, 1, MOST_STEPS)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        operator = measurement.linear_operator("TotalVariation")
        precision = measurement.gaussian_sigma("TotalVariation") ** -2
        curvature = precision * operator.norm_bound() ** 2
        tau, rate = 1 / curvature, curvature / 16  # 1 / tau - 8 rate >= curvature / 2; ||gradient||^2 <= 8
        x = measurement.y.new_zeros(len(measurement.y), *measurement.image_shape)
        dual = gradient(x)
        for step in range(1, self.num_steps + 1):
            slope = precision * operator.adjoint(operator.forward(x) - measurement.y)
            before, x = x, x - tau * (slope + gradient_adjoint(dual))
            dual = dual + rate * gradient(2 * x - before)
            length = torch.linalg.vector_norm(dual, dim=(1, 2), keepdim=True)
            dual = dual / (length / self.weight).clamp_min(1)
            observe("total variation", step, self.num_steps, x)
        return check_finite(x, rng, "total variation")


def gradient(x: Tensor) -> Tensor:
    """Differences to the next pixel, down and to the right, 0 at the border: (R, C, H, W) -> (R, 2, C, H, W)."""
    return torch.stack([F.pad(x.diff(dim=-2), (0, 0, 0, 1)), F.pad(x.diff(dim=-1), (0, 1))], dim=1)


def gradient_adjoint(v: Tensor) -> Tensor:
    """The adjoint of `gradient`: (R, 2, C, H, W) -> (R, C, H, W)."""
    down, right = v[:, 0, ..., :-1, :], v[:, 1, ..., :-1]
    return -F.pad(down, (0, 0, 1, 1)).diff(dim=-2) - F.pad(right, (1, 1)).diff(dim=-1)
