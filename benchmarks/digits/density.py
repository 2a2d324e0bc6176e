"""How wide the digits of an empirical prior should be, and which samples are no digits: by held-out digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules import IdxImageSet
from posterior.checks import MOST_IMAGES, real, whole
from posterior.errors import UserError
from posterior.metrics.digits import confidence
from posterior.priors import EmpiricalPrior
from posterior.shipped import CONFIGS
from posterior.terminal import say_result

HELD_OUT = CONFIGS / "data" / "digits_held_out_images.idx.gz"
WIDTHS = (0.1, 0.2, 0.22, 0.24, 0.26, 0.28, 0.3, 0.32, 0.34, 0.36, 0.4, 0.5, 0.8)
TOGETHER = 64
RARE = 0.01
"""Share of held-out digits that are taken for none."""


def held_out_log_density(prior: EmpiricalPrior, images: Tensor, widths: Sequence[float]) -> Tensor:
    """log p_w(x) of images x (M, C, H, W) for each width w, (M, W) float64, whatever the prior's own width.

    Args:
        prior: x_i and their weights.
        images: that are none of the prior's.
        widths: w > 0.

    Raises:
        UserError: if a width is not positive, there is none, or images have another shape.
    """
    if not widths:
        raise UserError("held_out_log_density: no width is given")
    for width in widths:
        real("held_out_log_density", "width", width, above=0)
    if images.shape[1:] != prior.images.shape[1:]:
        shapes = tuple(prior.images.shape[1:]), tuple(images.shape[1:])
        raise UserError(f"held_out_log_density: the prior has images {shapes[0]}, held-out ones are {shapes[1]}")
    found, dimension = [], images[0].numel()
    for x in images.flatten(1).double().split(TOGETHER):
        squares = x.square().sum(dim=1, keepdim=True) - 2 * prior.products(x) + prior.squares
        columns = [
            (prior.log_weights - squares / (2 * w**2)).logsumexp(dim=1) - 0.5 * dimension * math.log(2 * math.pi * w**2)
            for w in widths
        ]
        found.append(torch.stack(columns, dim=1))
    return torch.cat(found)


@dataclass(frozen=True)
class Unlike:
    """Which images are less like digits than 99 % of held-out digits are.

    Two marks, as each is blind to what the other sees. The density p_w finds what lies far from all digits; a blend of
    two digits may have a high one, since the mean of images is nearer to all of them (Theis, van den Oord and Bethge,
    "A note on the evaluation of generative models", ICLR 2016). The classifier's confidence finds blends of classes.

    Args:
        prior: whose p_w it is.
        width: w, at which the held-out digits are likeliest.
        least_density: log p_w that 99 % of the held-out digits exceed.
        least_confidence: the same of the probability of an image's likeliest class.
    """

    prior: EmpiricalPrior
    width: float
    least_density: float
    least_confidence: float

    @classmethod
    def of(cls, prior: EmpiricalPrior, held_out: Tensor, widths: Sequence[float] = WIDTHS) -> Unlike:
        """By held-out digits (M, 1, 32, 32).

        Raises:
            UserError: if there are fewer than 100: none of them is rare enough; or as `held_out_log_density` does.
        """
        whole("Unlike", "held-out digits", len(held_out), round(1 / RARE), MOST_IMAGES)
        values = held_out_log_density(prior, held_out, widths)
        best = int(values.mean(dim=0).argmax())
        return cls(prior, widths[best], _rare(values[:, best]), _rare(confidence(held_out)))

    def improbable(self, x: Tensor) -> Tensor:
        """Whether log p_w of images (N, 1, 32, 32) is below the held-out digits', (N,) bool."""
        return held_out_log_density(self.prior, x, [self.width])[:, 0] < self.least_density

    def undecided(self, x: Tensor) -> Tensor:
        """Whether the class of upright images (N, 1, 32, 32) is less sure than the held-out digits', (N,) bool."""
        return confidence(x) < self.least_confidence


def _rare(values: Tensor) -> float:
    return float(values.double().quantile(RARE))


def digit_width(images: Path, held_out: Path = HELD_OUT, count: int = 500, widths: Sequence[float] = WIDTHS) -> None:
    """Print the mean log density of held-out digits for each width, and the best one (docs/digits.md).

    Args:
        images: idx file of the prior's digits.
        held_out: idx file of others.
        count: so many of these, evenly spread, >= 2.
        widths: w, > 0.

    Raises:
        UserError: if a number is out of range, or a file cannot be used.
    """
    whole("digit-width", "count", count, 2, MOST_IMAGES)
    prior = EmpiricalPrior.from_file(images, size=32)
    others = evenly(IdxImageSet(held_out).all(), count)
    values = held_out_log_density(prior, others, widths)
    means, errors = values.mean(dim=0).tolist(), (values.std(dim=0) / count**0.5).tolist()
    say_result(f"{len(prior)} digits, {count} others; log density of an image of {others[0].numel()} numbers, nats:")
    for width, mean, error in zip(widths, means, errors, strict=True):
        say_result(f"w {width:<6g} {mean:10.1f} +- {error:.1f}")
    say_result(f"likeliest at w = {widths[means.index(max(means))]:g}")


def evenly(images: Tensor, count: int) -> Tensor:
    """So many of images (N, ...), evenly spread: files may have their writers in an order.

    Raises:
        UserError: if there are fewer.
    """
    if len(images) < count:
        raise UserError(f"{count} images are wanted, there are {len(images)}")
    return images[torch.linspace(0, len(images) - 1, count).round().long()]
