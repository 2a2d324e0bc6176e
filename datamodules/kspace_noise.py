"""The noise level of recorded k-space, with its interval."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from posterior.errors import UserError

CONFIDENCE = 0.95
OUTER = 0.75
"""Of half the sides of k-space: both frequencies are beyond this share of it in a corner."""
LEAST = 64
"""Complex numbers from which a level is taken: its interval is 12 % wide on either side then."""
UNLIKELY = 1e-3
"""Probability, under noise alone, of a ratio of energies from which the corners are said to hold signal."""


@dataclass(frozen=True)
class NoiseLevel:
    """Standard deviation of the real and of the imaginary part of noise.

    Args:
        sigma: the estimate.
        low, high: its interval of `CONFIDENCE`.
        numbers: complex numbers from which it was taken; 0: it was given.
        signal: whether these hold signal too, by their own ratio of energies: then sigma is too large.
    """

    sigma: float
    low: float
    high: float
    numbers: int
    signal: bool = False


def noise_level(values: np.ndarray) -> NoiseLevel:
    """The level of complex numbers (n,) that are noise alone: sigma^2 = mean |z|^2 / 2.

    2 n sigma^2 / (true sigma)^2 is chi-squared with 2 n degrees of freedom, whence the interval.

    Raises:
        UserError: if they are fewer than `LEAST`, or all zeros.
    """
    n = values.size
    energy = float((np.abs(values) ** 2).sum())
    if n < LEAST or energy == 0:
        raise UserError(f"{n} numbers of noise, of energy {energy:.3g}, are too few: give sigma")
    tail = (1 - CONFIDENCE) / 2
    low, high = (float((energy / scipy.stats.chi2.ppf(level, 2 * n)) ** 0.5) for level in (1 - tail, tail))
    return NoiseLevel((energy / (2 * n)) ** 0.5, low, high, n)


def corner_noise(kspace: Tensor, mask: Tensor) -> NoiseLevel:
    """The level of what was measured in the four corners of k-space, where images have next to no energy.

    Whether that is so they say themselves: their inner halves (by distance from the middle) would hold more than their
    outer ones. Under noise alone the ratio of energies a number has an F distribution.

    Args:
        kspace: (coils, H, W), its zero frequency in the middle.
        mask: True = measured, (H, W).

    Raises:
        UserError: as `noise_level`.
    """
    height, width = mask.shape
    y = (torch.arange(height) - height // 2).abs()[:, None] / (height / 2)
    x = (torch.arange(width) - width // 2).abs() / (width / 2)
    corner = mask & (y > OUTER) & (x > OUTER)
    radius = (y**2 + x**2).expand_as(mask)
    values = kspace[:, corner].numpy()
    level = noise_level(values.ravel())
    inner = (radius[corner] <= radius[corner].median()).numpy()
    near, far = (np.abs(part) ** 2 for part in (values[:, inner], values[:, ~inner]))
    if near.size and far.any() and scipy.stats.f.sf(near.mean() / far.mean(), 2 * near.size, 2 * far.size) < UNLIKELY:
        return replace(level, signal=True)
    return level
