"""How good a learned prior of toon faces is: pictures, distances of sample sets, denoising errors, copying."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.array import load_arrays
from datamodules.training import ToonFaceImages
from posterior.errors import UserError
from posterior.images import from_pixels
from posterior.metrics.distances import frechet_distance, kernel_distance
from posterior.metrics.features import VGG16Features
from posterior.priors import DiffusionPrior, GaussianFieldPrior
from posterior.random import Streams
from posterior.results.pictures import save_png, sheet
from posterior.samplers import DDIM, Ancestral, RespacedSigmas, ReverseDiffusion, initial_noise
from posterior.shipped import CONFIGS


def learned_prior(
    prior: DiffusionPrior,
    output: Path = Path("results/learned_prior"),
    held_out: Path = CONFIGS / "data" / "toon_faces32.npz",
    training_start: int = 10000,
    training_count: int = 40000,
    fresh_start: int = 1000,
    num_samples: int = 2048,
    sheet_images: int = 64,
    sigmas: Sequence[float] = (0.05, 0.1, 0.3, 1.0, 3.0, 30.0),
    cache: Path = Path("cache/toon"),
    seed: int = 0,
) -> None:
    """Judge a prior of toon faces; writes samples.png, nearest.png and report.txt, and prints the report.

    - samples.png: held-out faces | samples by DDIM in 50 steps | by the ancestral sampler in 250.
    - Frechet and kernel distance of ``num_samples`` samples (DDIM 50) to as many real faces that the prior has not
      seen, beside those of another such set of real faces (the floor) and of a Gaussian field's samples.
    - RMSE of the denoised image by noise level, for held-out and as many training faces, with standard errors.
    - nearest.png: 8 samples above their nearest training faces; and the median distance of samples and of held-out
      faces to theirs (root mean square over pixels).

    Args:
        prior: e.g. configs/prior/toon_faces32.yaml.
        output: folder for the pictures and the report.
        held_out: the held-out faces.
        training_start, training_count: the faces that the prior has learned from.
        fresh_start: first of 2 * num_samples faces that it has not learned from.
        num_samples: size of the compared sets.
        sheet_images: pictures of each kind in samples.png.
        sigmas: noise levels.
        cache: folder of rendered faces.
        seed: of noise and samples.

    Raises:
        UserError: if a number is out of range, or VGG16's weights are not there.
    """
    if not 1 <= sheet_images <= num_samples or num_samples < 2:
        raise UserError("learned-prior: needs num_samples >= 2 and sheet_images between 1 and num_samples")
    features = VGG16Features()  # its weights may be missing: that should be known before hours of sampling
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    output.mkdir(parents=True, exist_ok=True)
    faces = from_pixels(load_arrays(held_out)["images"])
    size = faces.shape[-1]
    training = ToonFaceImages(size, training_start, training_count, cache).all()
    fresh = ToonFaceImages(size, fresh_start, 2 * num_samples, cache).all()

    both = min(len(faces), len(training))
    denoising(prior, faces[:both], training[:both], sigmas, seed, say)

    shape = tuple(faces.shape[1:])
    ancestral = draw(
        prior,
        ReverseDiffusion(RespacedSigmas(250, prior.noise_schedule), Ancestral(), clip_denoised=True),
        sheet_images,
        shape,
        seed,
    )
    samples = draw(
        prior, ReverseDiffusion(RespacedSigmas("ddim50", prior.noise_schedule), DDIM()), num_samples, shape, seed
    )
    gap = np.full((sheet(faces[:sheet_images]).shape[0], 16, 3), 255, dtype=np.uint8)
    save_png(
        np.concatenate(
            [sheet(faces[:sheet_images]), gap, sheet(samples[:sheet_images]), gap, sheet(ancestral)], axis=1
        ),
        output / "samples.png",
    )
    copying(samples, faces, training, output / "nearest.png", say)

    field = GaussianFieldPrior.fit(training[:4096])
    gaussian = field.sample_from(torch.randn(num_samples, *shape, generator=torch.Generator().manual_seed(seed)))
    real, other = features.of_set(fresh[:num_samples]), features.of_set(fresh[num_samples:])
    floor = frechet_distance(real, other)
    sets = {"real faces (floor)": other}
    sets |= {"DDIM 50": features.of_set(samples), "Gaussian field": features.of_set(gaussian)}
    say(f"{'VGG16 features, ' + str(num_samples):24s} {'Frechet':>9s} {'/ floor':>8s} {'kernel':>10s}")
    for name, values in sets.items():
        distance = frechet_distance(values, real)
        say(f"{name:24s} {distance:9.3f} {distance / floor:8.2f} {kernel_distance(values, real):10.6f}")
    (output / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(
    prior: DiffusionPrior, reverse: ReverseDiffusion, count: int, image_shape: tuple[int, ...], seed: int
) -> Tensor:
    """Unconditional samples (count, C, H, W), the same whatever the count."""
    samples, start = [], time.monotonic()
    for first in range(0, count, 128):
        rng = Streams(seed, [f"unconditional {number}" for number in range(first, min(first + 128, count))])
        sigmas = reverse.schedule.sigmas()
        samples.append(reverse.descend(prior, initial_noise(image_shape, sigmas[0], rng), sigmas, rng))
        done = min(first + 128, count)
        print(f"{done} of {count} samples, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return torch.cat(samples)


def denoising(
    prior: DiffusionPrior,
    held_out: Tensor,
    training: Tensor,
    sigmas: Sequence[float],
    seed: int,
    say: Callable[[str], None],
) -> None:
    """RMSE of D(x0 + sigma n, sigma) over two sets of faces under the same noise."""
    noise = Streams(seed, [f"denoising {number}" for number in range(len(held_out))])
    say(f"{'RMSE of x0, sigma':24s} {'held-out':>16s} {'training':>16s} {'ratio':>15s}")
    for sigma in sigmas:
        n = noise.randn(f"sigma {sigma}", held_out.shape[1:])
        errors = []
        for faces in (held_out, training):
            with torch.no_grad():
                denoised = torch.cat([prior.denoise(x, sigma) for x in (faces + sigma * n).split(128)])
            errors.append((denoised - faces).square().mean(dim=(1, 2, 3)))
        values = [error.mean().sqrt() for error in errors]
        deviations = [e.std() / len(e) ** 0.5 / (2 * v) for e, v in zip(errors, values, strict=True)]
        ratio = values[0] / values[1]
        spread = ratio * ((deviations[0] / values[0]) ** 2 + (deviations[1] / values[1]) ** 2).sqrt()
        cells = [f"{v:8.4f} +- {d:.4f}" for v, d in zip(values, deviations, strict=True)]
        say(f"{sigma:<24g} {cells[0]:>16s} {cells[1]:>16s} {ratio:7.3f} +- {spread:.3f}")


def copying(samples: Tensor, held_out: Tensor, training: Tensor, path: Path, say: Callable[[str], None]) -> None:
    """Distances to the nearest training face, and a picture of 8 samples above theirs."""
    flat = training.flatten(1)
    side = flat.shape[1] ** 0.5
    for name, faces in (("samples", samples), ("held-out faces", held_out)):
        distances, nearest = (torch.cdist(faces.flatten(1), flat) / side).min(dim=1)
        low, middle, high = torch.quantile(distances, torch.tensor([0.01, 0.5, 0.99])).tolist()
        say(f"nearest training face of {len(faces)} {name}: rms {middle:.3f} (1 % {low:.3f}, 99 % {high:.3f})")
        if name == "samples":
            save_png(sheet(torch.cat([samples[:8], training[nearest[:8]]]), enlarge=4), path)
