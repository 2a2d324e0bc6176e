"""Fit a Gaussian mixture prior to toon faces."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from datamodules.array import load_arrays
from datamodules.training import ToonFaceImages
from posterior.callbacks.pictures import save_png, sheet
from posterior.images import from_pixels
from posterior.priors import GaussianMixturePrior


def fit_mixture_toon(
    output: Path,
    num_components: int = 12,
    rank: int = 32,
    num_steps: int = 40,
    start: int = 10000,
    count: int = 10000,
    held_out: Path = Path("datamodules/toon_faces32.npz"),
    cache: Path = Path("cache/toon"),
    seed: int = 0,
) -> tuple[float, float]:
    """Fit a mixture of probabilistic PCA to toon faces 32x32 by EM, and write it.

    Prints the mean log likelihood a pixel and colour, of the faces that were fitted and of the held-out ones, and draws
    64 samples beside the file.

    Args:
        output: the .safetensors file to write.
        num_components, rank, num_steps: of the fit.
        start, count: the faces that are fitted.
        held_out: the held-out faces.
        cache: folder of rendered faces.
        seed: of the fit's start.

    Returns:
        Both log likelihoods, in nats.
    """
    faces = ToonFaceImages(32, start, count, cache).all()
    others = from_pixels(load_arrays(held_out)["images"])

    def observe(step: int, log_likelihood: float) -> None:
        print(f"step {step}: {log_likelihood / faces[0].numel():.4f}", file=sys.stderr, flush=True)

    fitted = GaussianMixturePrior.fit(faces, num_components, rank, num_steps, seed=seed, observe=observe)
    fitted.save(output, torch.float16)
    prior = GaussianMixturePrior.from_file(output)  # with the directions as they are stored
    known, unknown = (
        float(torch.cat([prior.log_prob(part) for part in x.split(256)]).double().mean()) / faces[0].numel()
        for x in (faces, others)
    )
    print(f"log likelihood a number, nats: fitted faces {known:.4f}, held-out faces {unknown:.4f}")
    print(f"weights: {', '.join(f'{w:.3f}' for w in prior.weights.tolist())}")
    save_png(sheet(prior.sample(64, torch.Generator().manual_seed(seed))), output.with_suffix(".png"))
    return known, unknown
