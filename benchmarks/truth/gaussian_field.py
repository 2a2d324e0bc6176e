"""Annealed Langevin against exact posterior samples, image by image, under a Gaussian field prior."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from posterior.images import list_images, load_image
from posterior.measurement import Measurement
from posterior.metrics import PSNR
from posterior.noise import GaussianNoise
from posterior.operators import GaussianBlur, OperatorFamily, RandomInpainting, SuperResolution
from posterior.priors import GaussianFieldPrior
from posterior.random import Streams, stream
from posterior.samplers import (
    AnnealedLangevin,
    ExactGaussian,
    PublishedAnnealing,
    RespacedSigmas,
    ReverseDiffusion,
    Sampler,
)

TASKS: dict[str, OperatorFamily] = {
    "inpainting": RandomInpainting(),
    "4x SR": SuperResolution(4),
    "deblurring": GaussianBlur(61, 3.0),
}


def gaussian_field(
    root: Path,
    size: int = 64,
    num_images: int = 2,
    num_samples: int = 64,
    step_size: float = 4e-4,
    growth: float = 0.009,
    num_levels: int = 1000,
    steps_per_level: int = 30,
    sigma_y: float = 0.05,
    tasks: Sequence[str] = tuple(TASKS),
    seed: int = 0,
) -> None:
    """Algorithm 1, cold, beside exact samples: PSNR, sample mean against the exact mean, and spread.

    The row "exact" is a second, independent set of exact samples of the same size: the Monte Carlo floor.

    Args:
        root: folder of images; the prior is fitted to all of them.
        size: side in pixels to which they are resized.
        num_images: how many of them are measured.
        num_samples: chains per image, >= 2.
        step_size, growth, num_levels, steps_per_level: of annealed Langevin (published schedule).
        sigma_y: noise level.
        tasks: which of "inpainting", "4x SR", "deblurring".
        seed: of everything.
    """
    files = list(list_images(Path(root)).items())[:num_images]
    prior = GaussianFieldPrior.from_folder(Path(root), size=size)
    truth = torch.stack([load_image(path, size=size) for _, path in files])
    ids = [image_id for image_id, _ in files]
    langevin = AnnealedLangevin(
        step_size=step_size,
        schedule=PublishedAnnealing(growth, num_levels, steps_per_level),
        reverse=ReverseDiffusion(RespacedSigmas(200)),
    )
    print(f"{'task':12s} {'sampler':9s} {'image':14s} {'PSNR':>7s} {'mean err':>9s} {'std ratio':>9s} {'resid.':>7s}")
    for task in tasks:
        family = TASKS[task]
        operator = family.realise(truth.shape[1:], [stream(seed, i, -1, "operator") for i in ids])
        noise = Streams(seed, ids).randn("noise", operator.measurement_shape)
        measurement = Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)
        mean = ExactGaussian(tolerance=1e-6).mean(prior, measurement)
        exact, second = (
            draw(ExactGaussian(), prior, measurement, Streams(s, ids, num_samples)) for s in (seed, seed + 1)
        )
        start = time.perf_counter()
        chains = draw(langevin, prior, measurement, Streams(seed + 2, ids, num_samples))
        seconds = time.perf_counter() - start
        for name, samples in (("exact", second), ("langevin", chains)):
            for row, image_id in enumerate(ids):
                one = measurement.rows(torch.tensor([row])).repeat(num_samples)
                psnr = PSNR()(samples[:, row], truth[[row]].expand_as(samples[:, row]), one).mean()
                error = (samples[:, row].mean(dim=0) - mean[row]).norm() / mean[row].norm()
                ratio = spread(samples[:, row]) / spread(exact[:, row])
                residual = one.relative_residual(samples[:, row]).mean()
                print(
                    f"{task:12s} {name:9s} {image_id:14s} {psnr:7.3f} {error:9.4f} {ratio:9.4f} {residual:7.4f}",
                    flush=True,
                )
        print(f"{task:12s} langevin took {seconds:.0f} s for {chains.shape[0] * chains.shape[1]} chains", flush=True)


def draw(sampler: Sampler, prior: GaussianFieldPrior, measurement: Measurement, rng: Streams) -> Tensor:
    """Samples (K, B, C, H, W)."""
    samples = sampler(prior, measurement.repeat(len(rng) // len(measurement.y)), rng)
    return samples.reshape(-1, *measurement.y.shape[:1], *samples.shape[1:])


def spread(samples: Tensor) -> Tensor:
    """Root mean square over pixels of the standard deviation over samples (K, C, H, W)."""
    return samples.var(dim=0).mean().sqrt()
