"""Fit a Gaussian mixture prior to images."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from datamodules.training import ImageSet
from posterior.errors import UserError
from posterior.priors import GaussianMixturePrior
from posterior.results.pictures import save_png, sheet


def fit_mixture(
    images: ImageSet,
    held_out: ImageSet,
    output: Path,
    num_components: int = 12,
    rank: int = 32,
    num_steps: int = 40,
    seed: int = 0,
) -> tuple[float, float]:
    """Fit a mixture of probabilistic PCA to images by EM, and write it.

    Prints the mean log likelihood of one number of an image, for the images that were fitted and for those held out,
    and draws 64 samples beside the file.

    Args:
        images: to fit, e.g. ``--images datamodules.FolderImages --images.root F --images.size 32``.
        held_out: other images of the same size.
        output: the .safetensors file to write.
        num_components, rank, num_steps: of the fit.
        seed: of the fit's start.

    Returns:
        Both log likelihoods, in nats.

    Raises:
        UserError: if images differ in size, or cannot be read.
    """
    known, unknown = images.all(), held_out.all()
    if known.shape[1:] != unknown.shape[1:]:
        raise UserError(f"fit-mixture: images of {tuple(known.shape[1:])}, held-out ones of {tuple(unknown.shape[1:])}")
    size = known[0].numel()

    def observe(step: int, log_likelihood: float) -> None:
        print(f"step {step}: {log_likelihood / size:.4f}", file=sys.stderr, flush=True)

    fitted = GaussianMixturePrior.fit(known, num_components, rank, num_steps, seed=seed, observe=observe)
    fitted.save(output, torch.float16)
    prior = GaussianMixturePrior.from_file(output)  # with the directions as they are stored
    first, second = (
        float(torch.cat([prior.log_prob(part) for part in x.split(256)]).double().mean()) / size
        for x in (known, unknown)
    )
    print(f"log likelihood a number, nats: fitted images {first:.4f}, held-out images {second:.4f}")
    print(f"weights: {', '.join(f'{w:.3f}' for w in prior.weights.tolist())}")
    save_png(sheet(prior.sample(64, torch.Generator().manual_seed(seed))), output.with_suffix(".png"))
    return first, second
