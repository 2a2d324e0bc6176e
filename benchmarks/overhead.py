"""What a sampler costs beyond its network calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.recipe import fill_by_recipe
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import RandomInpainting
from posterior.priors import DiffusionPrior, UNet
from posterior.random import Streams, stream
from posterior.samplers import DPS, AnnealedLangevin, PublishedAnnealing, RespacedSigmas, ReverseDiffusion


def overhead(num_steps: int = 20, batch_size: int = 8, size: int = 32, repeats: int = 5) -> dict[str, float]:
    """Time of each sampler over the time of as many bare network calls, interleaved in one process (median of ratios).

    The network is a small guided-diffusion UNet (1.4 M parameters, recipe weights). A bare call of DPS is a forward
    pass and the backward pass to the input.

    Args:
        num_steps: network calls of each sampler.
        batch_size: images per call.
        size: side in pixels.
        repeats: interleaved pairs of timings.
    """
    network = UNet(
        image_size=32, num_channels=32, channel_mult=(1, 2, 2), attention_resolutions=(16, 8), num_head_channels=16
    )
    fill_by_recipe(network)
    prior = DiffusionPrior(network)
    ids = [f"image {i}" for i in range(batch_size)]
    x = torch.rand(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    operator = RandomInpainting().realise(x.shape[1:], [stream(0, i, -1, "operator") for i in ids])
    measurement = Measurement.simulate(x, operator, GaussianNoise(0.05), torch.zeros_like(x))
    timesteps = torch.full((batch_size,), 500.0)

    @torch.no_grad()
    def forward() -> None:
        for _ in range(num_steps):
            network(x, timesteps)

    def forward_backward() -> None:
        for _ in range(num_steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(network(z, timesteps).sum(), z)

    reverse = ReverseDiffusion(RespacedSigmas(num_steps))
    langevin = AnnealedLangevin(1e-5, schedule=PublishedAnnealing(num_levels=num_steps + 1), anchor_sigma=0.3)
    cases: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
        "reverse diffusion": (lambda: reverse(prior, measurement, Streams(0, ids)), forward),
        "DPS": (lambda: DPS(RespacedSigmas(num_steps))(prior, measurement, Streams(0, ids)), forward_backward),
        "annealed Langevin": (lambda: langevin.anneal(prior, measurement, x, x, Streams(0, ids)), forward),
    }
    ratios = {}
    for name, (sampler, bare) in cases.items():
        sampler(), bare()
        pairs = [(seconds(sampler), seconds(bare)) for _ in range(repeats)]
        ratios[name] = statistics.median(ours / theirs for ours, theirs in pairs)
        bare_call = statistics.median(theirs for _, theirs in pairs) / num_steps
        print(f"{name:18s} {100 * (ratios[name] - 1):+.1f} % over bare calls of {1000 * bare_call:.1f} ms")
    return ratios


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
