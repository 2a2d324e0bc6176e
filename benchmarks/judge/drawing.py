"""What a prior knows: samples of p(x) alone."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.judge.command import Progress
from benchmarks.judge.problems import LearnedTruth, truth_of
from posterior.checks import MOST_BATCH, MOST_STEPS, whole
from posterior.errors import UserError
from posterior.priors import Prior
from posterior.results.pictures import save_png, sheet
from posterior.terminal import say_place

log = logging.getLogger(__name__)

TOGETHER = 16
"""Images that a network is called with."""
MOST_PIXELS = 4096
"""Of a side."""
LEAST_SIDE = 64
"""Pixels below which the picture shows images enlarged."""


def draw(
    prior: Prior,
    shape: tuple[int, int, int] = (3, 64, 64),
    count: int = 16,
    num_steps: int = 250,
    output: Path = Path("results/draw"),
    seed: int = 0,
) -> None:
    """Draw samples of a prior, without any measurement, and show them in one picture, samples.png.

    That is the first look at a network from elsewhere: noise, grey or burnt colours mean that it is not read as it was
    trained (`probe` says how).

    Args:
        prior: a file of settings, or a name that ships: prior/photos.
        shape: of an image: channels (at most 3, to be looked at), height, width.
        count: samples.
        num_steps: network calls a sample, of reverse diffusion with steps of second order, ended by a denoising step;
            priors in closed form need none.
        output: folder of the picture.
        seed: sample number n of a seed is the same whatever the count.

    Raises:
        UserError: if a number is out of range, the prior is not for such images, or a sample is not finite.
    """
    whole("draw", "count", count, 1, MOST_BATCH)
    whole("draw", "num_steps", num_steps, 2, MOST_STEPS)
    for side, most in zip(shape, (3, MOST_PIXELS, MOST_PIXELS), strict=True):
        whole("draw", "shape", side, 1, most)
    if line := prior.check_images(shape):
        log.warning("%s", line)
    samples = unconditional(prior, shape, count, num_steps, seed)
    if not torch.isfinite(samples).all():
        raise UserError("draw: NaN or infinite values in samples: `posterior-sampling probe` says what a prior has")
    enlarge = -(-LEAST_SIDE // max(shape[1:]))
    save_png(sheet(samples, columns=min(count, 8), enlarge=enlarge), output / "samples.png")
    say_place(f"picture: {output / 'samples.png'}")


def unconditional(
    prior: Prior, shape: tuple[int, int, int], count: int, num_steps: int, seed: int, together: int = TOGETHER
) -> Tensor:
    """Samples of p(x), (count, *shape), the same whatever the count; exact ones of priors in closed form.

    A network's take a while: it says how far they are.
    """
    truth = truth_of(prior, shape)
    if truth is None:
        progress = Progress(count, quiet=False)
        progress.begin("reverse diffusion", 1)
        truth = LearnedTruth(prior, shape, True, num_steps, together, partial(part_told, progress))
    with torch.no_grad():
        return truth.draw([f"unconditional {number}" for number in range(count)], seed)


def part_told(progress: Progress, stage: str, step: int, total: int, x: Tensor) -> None:
    """A step of all that are drawn together is such a part of them."""
    progress.told(len(x) / total)
