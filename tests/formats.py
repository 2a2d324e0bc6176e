"""The prior of toon faces in the terms of other libraries, and one short run of a sampler under any of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tools.building import built
from posterior import Measurement, Streams, stream
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.priors import DiffusionPrior, Prior
from posterior.samplers import DPS, RespacedSigmas
from posterior.settings import conformed, read_settings

CONFIGS = Path(__file__).parents[1] / "configs"
IDS = ["a", "b"]
ROUNDING = 1e-5
"""Of float32, in what `sampled` gives: largest difference between two ways to compute the same prior."""


def shipped(name: str = "toon_faces32") -> Prior:
    return made(CONFIGS / "prior" / f"{name}.yaml")


def made(file: Path, allow_local: bool = False) -> Prior:
    """The prior of a file of settings."""
    kinds = {"prior": Prior}
    return built(conformed({"prior": read_settings(file)}, kinds, allow_local), kinds, str(file))[0]


class UnitVariance(nn.Module):
    """A network that predicts v, in the preconditioning of Karras et al. for data of unit variance: F(x) = -v(x).

    Args:
        prior: ours, of prediction v.
        per_log: of sigma, that the network is told: 1/4 in EDM, 1 in azula's KarrasDenoiser.
    """

    def __init__(self, prior: DiffusionPrior, per_log: float) -> None:
        super().__init__()
        self.network, self.schedule, self.per_log = prior.network, prior.noise_schedule, per_log

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        timesteps = self.schedule.timestep(np.exp(told.double().numpy() / self.per_log))
        return -self.network(x, torch.from_numpy(np.atleast_1d(timesteps)).float().expand(len(x)))


class Velocity(nn.Module):
    """A prior's denoiser as a velocity of rectified flow, n - x0, or of flow matching, x0 - n."""

    def __init__(self, prior: Prior, time: str) -> None:
        super().__init__()
        self.prior, self.time = prior, time

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        noise = t if self.time == "noise" else 1 - t
        sigma = (noise / (1 - noise)).clamp(self.prior.sigma_min, self.prior.sigma_max)  # at its ends, to rounding
        velocity = (x_t - self.prior.denoise((1 + sigma).view(-1, 1, 1, 1) * x_t, sigma)) / noise.view(-1, 1, 1, 1)
        return velocity if self.time == "noise" else -velocity


def sampled(prior: Prior) -> Tensor:
    """DPS in five steps, super-resolution of two images, from streams of its own."""
    operator = SuperResolution(2, "average").realise((3, 32, 32), [stream(0, i, -1, "operator") for i in IDS])
    rng = Streams(0, IDS, samples=[-1])
    truth = (0.4 * rng.randn("truth", (3, 32, 32))).clamp(-1, 1)
    noise = rng.randn("noise", operator.measurement_shape)
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.1), noise)
    with torch.no_grad():
        return DPS(RespacedSigmas(5))(prior, measurement, Streams(0, IDS))
