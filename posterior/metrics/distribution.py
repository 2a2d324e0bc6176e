"""Distances between sets of samples."""

from __future__ import annotations

import torch
from torch import Tensor


def sliced_wasserstein(x: Tensor, y: Tensor, num_directions: int = 200, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two sample sets of equal size.

    The root of the mean, over random unit directions, of the squared one-dimensional W2 distance (Rabin et al., 2011).
    In one dimension W2 pairs sorted samples.

    Args:
        x, y: samples, (N, *S) each.
        num_directions: random directions.
        seed: of the directions.

    Raises:
        ValueError: if the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"sliced_wasserstein needs sets of equal shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.flatten(1), y.flatten(1)
    directions = torch.randn(x.shape[1], num_directions, generator=torch.Generator().manual_seed(seed)).to(x)
    directions = directions / directions.norm(dim=0)
    gap = (x @ directions).sort(dim=0).values - (y @ directions).sort(dim=0).values
    return float(gap.square().mean().sqrt())
