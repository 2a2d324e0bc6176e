"""What a sampler costs beyond its network calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.tools.recipe import fill_by_recipe
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
    x = torch.rand(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ratios = {}
    for name, (ratio, bare_call) in over_bare_calls(DiffusionPrior(network), x, num_steps, repeats).items():
        ratios[name] = ratio
        print(f"{name:18s} {100 * (ratio - 1):+.1f} % over bare calls of {1000 * bare_call:.1f} ms")
    return ratios


def measured(x: Tensor) -> tuple[list[str], Measurement]:
    """Ids and an inpainting measurement of images x (B, C, H, W), where they are."""
    ids = [f"image {i}" for i in range(len(x))]
    operator = RandomInpainting().realise(x.shape[1:], [stream(0, i, -1, "operator") for i in ids]).to(x.device)
    return ids, Measurement.simulate(x, operator, GaussianNoise(0.05), torch.zeros_like(x))


def over_bare_calls(prior: DiffusionPrior, x: Tensor, num_steps: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Sampler -> its time over that of as many bare network calls (median of ratios), and seconds of a bare call.

    Args:
        prior: whose network is called bare, in the same precision, on the device of x.
        x: images to measure, (B, C, H, W).
        num_steps: network calls of each sampler.
        repeats: interleaved pairs of timings.
    """
    ids, measurement = measured(x)
    timesteps = torch.full((len(x),), 500.0, device=x.device)

    def rng() -> Streams:
        return Streams(0, ids, device=x.device)

    @torch.no_grad()
    def forward() -> None:
        for _ in range(num_steps):
            with prior.autocast(x):
                prior.network(x, timesteps)

    def forward_backward() -> None:
        for _ in range(num_steps):
            z = x.detach().requires_grad_()
            with prior.autocast(x):
                output = prior.network(z, timesteps)
            torch.autograd.grad(output.float().sum(), z)

    reverse = ReverseDiffusion(RespacedSigmas(num_steps))
    langevin = AnnealedLangevin(1e-5, schedule=PublishedAnnealing(num_levels=num_steps + 1), anchor_sigma=0.3)
    cases: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
        "reverse diffusion": (lambda: reverse(prior, measurement, rng()), forward),
        "DPS": (lambda: DPS(RespacedSigmas(num_steps))(prior, measurement, rng()), forward_backward),
        "annealed Langevin": (lambda: langevin.anneal(prior, measurement, x, x, rng()), forward),
    }
    found = {}
    for name, (sampler, bare) in cases.items():
        sampler(), bare()
        pairs = [(seconds(sampler, x.device), seconds(bare, x.device)) for _ in range(repeats)]
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        found[name] = (ratio, statistics.median(theirs for _, theirs in pairs) / num_steps)
    return found


def seconds(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Wall-clock time of a call, until the device has done it."""
    finish(device)
    start = time.perf_counter()
    function()
    finish(device)
    return time.perf_counter() - start


def finish(device: torch.device | str) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
