"""The mistake behind many a strange sample: a measurement of images in [0, 1], where the prior's are in [-1, 1]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import Diverged
from posterior.measurement import Measurement
from posterior.operators.base import LinearOperator
from posterior.priors.base import Prior
from posterior.priors.latent import LatentPrior
from posterior.random import Streams
from posterior.samplers.in_latents import InLatents
from posterior.samplers.reverse_diffusion import ReverseDiffusion, SecondOrderAncestral
from posterior.samplers.schedules import GeometricSigmas
from posterior.terminal import remark

DRAWS = 64
"""Of the prior, to be held against y."""
LEVELS, TOP, BOTTOM = 12, 20.0, 0.05
"""Of the reverse diffusion that draws them, as far as the prior goes."""
SLACK = 0.1
"""In units of the brightness of a white image: what is that far below 0, and below the noise, is dark."""
NOISE = 3.0
"""Standard deviations."""
FEW_DARK, DARK = 0.002, 0.02
"""Share of dark numbers in a bright measurement, at most; in one that is not, at least."""
FLATTER = 0.9
"""A draw whose spread times this is below that of y is no flatter than y."""
FALSE_ALARMS = 1e-3
"""Share of right measurements that may look so."""
INDEPENDENT = 2
"""Rows of y that count, at most: they may be of pictures that are much alike."""
FEWEST = 64
"""Numbers of a measurement."""


@dataclass(frozen=True)
class Brightness:
    """Measurements as shares of that of a white image: from -1 to 1, but for noise, where A takes averages.

    Args:
        white: A 1, (B, *measurement_shape).
        sigma_y: of the noise, in units of y.
    """

    white: Tensor
    sigma_y: float

    @property
    def seen(self) -> Tensor:
        """Where a white image is measured at all, bool, like y."""
        return self.white > SLACK * self.white.max()

    def rows(self, index: Tensor) -> Brightness:
        return Brightness(self.white[index], self.sigma_y)

    def mean(self, values: Tensor) -> Tensor:
        """Over what is seen, (B,)."""
        return (values * self.seen).flatten(1).sum(dim=1) / self.seen.flatten(1).sum(dim=1)

    def dark(self, y: Tensor, sigma_y: float | None = None) -> Tensor:
        """The share of numbers that are below 0 by more than noise, (B,)."""
        sigma_y = self.sigma_y if sigma_y is None else sigma_y
        return self.mean((y < -SLACK * self.white - NOISE * sigma_y).to(y.dtype))

    def spread(self, y: Tensor) -> Tensor:
        """Standard deviation of y / A 1 over the numbers of an image, (B,)."""
        share = torch.where(self.seen, y / self.white, 0)
        mean = self.mean(share).view(-1, *[1] * (y.ndim - 1))
        return self.mean((share - mean).square()).sqrt()

    def halved(self, y: Tensor) -> Tensor:
        """Whether y might be (A x + A 1) / 2 in all rows: from 0 to A 1, and 2 y - A 1 is dark in places; ()."""
        within = (self.dark(y) <= FEW_DARK) & (self.dark(self.white - y) <= FEW_DARK)
        return within.all() & (self.dark(2 * y - self.white, 2 * self.sigma_y).mean() >= DARK)


@torch.no_grad()
def of_unit_range(prior: Prior, measurement: Measurement, seed: int, batch_size: int) -> bool:
    """Whether y = A x + noise looks as if its x were in [0, 1], and the prior's are in [-1, 1].

    Every row of y must be bright, as A u is for u in [0, 1]. Then 64 draws of the prior are measured by the same A with
    the same noise. The share of bright ones, squared if there are two rows or more, times the share of those with no
    more contrast than y must be below 1 / 1000, y itself counted among them. (So for one row none of the draws may be
    bright, and three at most as flat.) A right y is one more such draw: tests/test_value_range.py counts how often it
    is taken for a wrong one. Nothing is said of an A that is not linear or takes no averages with weights >= 0, as
    brightness means nothing there. The prior is asked only if y is bright, and a remark says so: all draws are 768
    calls, and no more are drawn once the answer cannot be yes.

    Args:
        prior: of images in [-1, 1], else the answer is no.
        measurement: N rows, Gaussian noise.
        seed: of the draws.
        batch_size: draws at a time.
    """
    operator, y = measurement.operator, measurement.y
    if not isinstance(operator, LinearOperator) or prior.value_range != (-1.0, 1.0):
        return False
    sigma_y = measurement.gaussian_sigma("of_unit_range")
    brightness = Brightness(operator.forward(y.new_ones(len(y), *measurement.image_shape)), sigma_y)
    told = averages(operator, brightness) & brightness.halved(y)
    if not waits.fetch("range of y", told):
        return False
    remark(f"y may be of images in [0, 1]: {DRAWS} draws of the prior tell, at most {DRAWS * LEVELS} calls")
    contrast = brightness.spread(y).mean()
    bright = flat = torch.ones_like(contrast)  # y itself is counted
    try:
        for dark, spread in of_draws(prior, measurement, brightness, seed, batch_size):
            bright, flat = bright + (dark < DARK).sum(), flat + (FLATTER * spread <= contrast).sum()
            share = (bright / (1 + DRAWS)) ** min(len(y), INDEPENDENT) * (flat / (1 + DRAWS))
            if waits.fetch("range of y", share >= FALSE_ALARMS):  # and it only grows
                return False
    except Diverged:
        return False
    return True


def averages(operator: LinearOperator, brightness: Brightness) -> Tensor:
    """Whether A u lies between 0 and A 1 for images u in [0, 1], and there are numbers enough; ()."""
    white = brightness.white
    shape = (len(white), *operator.image_shape)
    u = 1 - Streams(0, ["averages"], device=white.device).rand_like("u", white.new_empty(1, *shape)).view(shape)
    found, slack = operator.forward(u), SLACK * white.max()
    inside = (found >= -slack) & (found <= white + slack)
    return inside.all() & (brightness.seen.flatten(1).sum(dim=1) >= FEWEST).all()


def of_draws(
    prior: Prior, measurement: Measurement, brightness: Brightness, seed: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The dark share and the spread of `DRAWS` measured draws of the prior; draw n is measured as row n mod N.

    Yields:
        Both of ``batch_size`` draws, (batch_size,), or of those that are left.

    Raises:
        Diverged: if no draw is finite.
    """
    levels = prior.latents if isinstance(prior, LatentPrior) else prior
    schedule = GeometricSigmas(LEVELS, min(TOP, levels.sigma_max), max(BOTTOM, levels.sigma_min))
    sampler = ReverseDiffusion(schedule, SecondOrderAncestral())
    draw = InLatents(sampler) if isinstance(prior, LatentPrior) else sampler
    for numbers in torch.arange(DRAWS, device=measurement.y.device).split(batch_size):
        index = numbers % len(measurement.y)
        rng = Streams(seed, ["a draw of the prior"], device=measurement.y.device, samples=numbers.tolist())
        clean = measurement.operator.rows(index).forward(draw(prior, measurement.rows(index), rng))
        y = clean + brightness.sigma_y * rng.randn_like("noise", clean)
        yield brightness.rows(index).dark(y), brightness.rows(index).spread(y)
